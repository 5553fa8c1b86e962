// Calls one function of the tasks.mjs beside this file, and prints what it gives as JSON. An instant
// becomes its milliseconds since 1970, so that a test sees whether the time zone was right.
import { argv } from 'node:process'
import * as tasks from './tasks.mjs'

const [name, ...values] = argv.slice(2)
const given = await tasks[name](...values)
console.log(JSON.stringify(given ?? null, function (key, value) {
  return this[key] instanceof Date ? { milliseconds: this[key].getTime() } : value
}))
await tasks.close()
