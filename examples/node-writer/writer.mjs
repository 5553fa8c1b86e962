#!/usr/bin/env node
// Everything that a Node.js application does for Enrollgate: SQL on its own table.
//
//   DATABASE_URL=mysql://user:password@host:3306/courses node writer.mjs add --email ada@example.com --course-url https://...
import { parseArgs } from 'node:util'
import { setTimeout as sleep } from 'node:timers/promises'
import mysql from 'mysql2/promise'

const USAGE = `usage: node writer.mjs COMMAND
  create-table                                     create download_tasks if it does not exist
  add --email E --course-url U [--status pending]  add a task, print its id
  set ID STATUS                                    change the status of a task
  list                                             print all tasks
  play --email E --course-url U [--seconds 30] [--site URL --course NAME] [--fail | --stall]
                                                   simulate an enrollment: pending, paid, processing, enrolled
Set DATABASE_URL to mysql://user:password@host:port/database.`

const CREATE = `CREATE TABLE IF NOT EXISTS download_tasks (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  status VARCHAR(32) NOT NULL,
  email VARCHAR(255) NOT NULL,
  course_url VARCHAR(2048) NOT NULL,
  created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  INDEX ix_download_tasks_status (status)
)`

class UsageError extends Error {}

function required (values, ...names) {
  for (const name of names) if (!values[name]) throw new UsageError(`--${name} is missing`)
}

function taskId (text) {
  if (!/^[1-9][0-9]*$/.test(text ?? '')) throw new UsageError(`'${text ?? ''}' is not a task id: use a positive number`)
  return Number(text)
}

async function add (database, values) {
  required(values, 'email', 'course-url')
  const [result] = await database.execute(
    'INSERT INTO download_tasks (status, email, course_url) VALUES (?, ?, ?)',
    [values.status ?? 'pending', values.email, values['course-url']]
  )
  return result.insertId
}

// Take the time before the write, so that every reaction to the new status is later.
async function set (database, id, status) {
  const instant = Date.now()
  const [result] = await database.execute('UPDATE download_tasks SET status = ? WHERE id = ?', [status, id])
  if (result.affectedRows === 0) throw new Error(`task ${id} does not exist`)
  console.log(`${instant} task ${id} ${status}`)
}

async function enroll (values) {
  if (!values.site) return
  required(values, 'course')
  const answer = await fetch(new URL('/enroll', values.site), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ account: values.email, course: values.course })
  })
  if (!answer.ok) throw new Error(`the course site responded ${answer.status} ${await answer.text()}`)
}

async function play (database, values) {
  const seconds = Number(values.seconds ?? 30)
  if (!(seconds >= 0)) throw new UsageError(`--seconds ${values.seconds} is not valid: use a number of seconds`)
  const id = await add(database, { ...values, status: 'pending' })
  console.log(`${Date.now()} task ${id} pending`)
  for (const status of ['paid', 'processing']) {
    await sleep(seconds * 1000 / 3)
    await set(database, id, status)
  }
  if (values.stall) return
  await sleep(seconds * 1000 / 3)
  if (values.fail) return await set(database, id, 'failed')
  await enroll(values)
  await set(database, id, 'enrolled')
}

async function run (command, rest, values, database) {
  switch (command) {
    case 'create-table': return await database.query(CREATE)
    case 'add': return console.log(await add(database, values))
    case 'set': {
      if (!rest[1]) throw new UsageError('`set` needs an id and a status')
      return await set(database, taskId(rest[0]), rest[1])
    }
    case 'list': {
      const [rows] = await database.execute('SELECT id, status, course_url FROM download_tasks ORDER BY id')
      return console.table(rows)
    }
    case 'play': return await play(database, values)
    default: throw new UsageError(command ? `unknown command '${command}'` : 'no command given')
  }
}

async function main () {
  const text = { type: 'string' }
  const { values, positionals: [command, ...rest] } = parseArgs({
    allowPositionals: true,
    options: {
      email: text, 'course-url': text, status: text, seconds: text, site: text, course: text,
      fail: { type: 'boolean' }, stall: { type: 'boolean' }
    }
  })
  if (!process.env.DATABASE_URL) throw new UsageError('DATABASE_URL is not set: set it to mysql://user:password@host:3306/database')
  const database = await mysql.createConnection(process.env.DATABASE_URL)
  try {
    await run(command, rest, values, database)
  } finally {
    await database.end()
  }
}

try {
  await main()
} catch (error) {
  const usage = error instanceof UsageError || error.code?.startsWith('ERR_PARSE_ARGS')
  console.error(usage ? `${error.message}\n${USAGE}` : error.message || error.code)
  process.exitCode = usage ? 2 : 1
}
