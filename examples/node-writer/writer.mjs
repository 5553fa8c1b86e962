#!/usr/bin/env node
// Everything that a Node.js application does for Enrollgate: SQL on its own table.
//
//   DATABASE_URL=mysql://user:password@host:3306/courses node writer.mjs add --email ada@example.com --course-url https://...
import { createHash } from 'node:crypto'
import { parseArgs } from 'node:util'
import { setTimeout as sleep } from 'node:timers/promises'
import mysql from 'mysql2/promise'

const USAGE = `usage: node writer.mjs COMMAND
  create-table                                     create download_tasks if it does not exist
  add --email E --course-url U [--status pending]  add a task, print its id
  set ID STATUS                                    change the status of a task
  list                                             print all tasks
  watch ID                                         show the progress of a task until it ends, and its link
  why ID                                           say why a task is where it is, and what to do
  pause [--email E | --host H] [--minutes M] [--why TEXT]
                                                   launch no further run: of an account, of a host, or at all
  resume [--email E | --host H]                    end that pause
  holds                                            list what is paused or on hold
  play --email E --course-url U [--seconds 30] [--site URL --course NAME] [--fail | --stall]
                                                   simulate an enrollment: pending, paid, processing, enrolled
Set DATABASE_URL to mysql://user:password@host:port/database. Is the operator's ENROLLGATE_INSTALLATION not enrollgate?
Then add --installation NAME to pause, resume and holds.`

const CREATE = `CREATE TABLE IF NOT EXISTS download_tasks (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  status VARCHAR(32) NOT NULL,
  email VARCHAR(255) NOT NULL,
  course_url VARCHAR(2048) NOT NULL,
  created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  INDEX ix_download_tasks_status (status)
)`

class UsageError extends Error {}

/** @typedef {import('mysql2/promise').Connection} Connection */
/** @typedef {import('mysql2/promise').ResultSetHeader} ResultSetHeader */
/** @typedef {import('./enrollgate.d.ts').TaskStatus} TaskStatus */
/** @typedef {import('./enrollgate.d.ts').Hold} Hold */
/** @typedef {Record<string, string | boolean | undefined>} Values */

/** @param {Values} values @param {string[]} names */
function required (values, ...names) {
  for (const name of names) if (!values[name]) throw new UsageError(`--${name} is missing`)
}

// A BIGINT may be larger than a number of JavaScript can be: then the id stays text, also in what mysql2 reads.
/** @param {string | undefined} text @returns {number | string} */
function taskId (text) {
  if (!text || !/^[1-9][0-9]*$/.test(text)) throw new UsageError(`'${text ?? ''}' is not a task id: use a positive number`)
  return Number.isSafeInteger(Number(text)) ? Number(text) : text
}

/** @param {Connection} database @param {Values} values */
async function add (database, values) {
  required(values, 'email', 'course-url')
  const [result] = await database.execute(
    'INSERT INTO download_tasks (status, email, course_url) VALUES (?, ?, ?)',
    [String(values.status ?? 'pending'), String(values.email), String(values['course-url'])]
  )
  return /** @type {ResultSetHeader} */ (result).insertId
}

// Take the time before the write, so that every reaction to the new status is later.
/** @param {Connection} database @param {number | string} id @param {string} status */
async function set (database, id, status) {
  const instant = Date.now()
  const [result] = await database.execute('UPDATE download_tasks SET status = ? WHERE id = ?', [status, id])
  if (/** @type {ResultSetHeader} */ (result).affectedRows === 0) throw new Error(`task ${id} does not exist`)
  console.log(`${instant} task ${id} ${status}`)
}

/** @param {Values} values */
async function enroll (values) {
  if (!values.site) return
  required(values, 'course')
  const answer = await fetch(new URL('/enroll', String(values.site)), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ account: values.email, course: values.course })
  })
  if (!answer.ok) throw new Error(`the course site responded ${answer.status} ${await answer.text()}`)
}

/** @param {Connection} database @param {Values} values */
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

/**
 * Read the row of a task in the view. One row is cheap to read, however many tasks there are.
 * @param {Connection} database @param {number | string} id @returns {Promise<TaskStatus>}
 */
async function taskStatus (database, id) {
  const [rows] = await database.execute('SELECT * FROM enrollgate_task_status WHERE task_id = ?', [id])
  const [row] = /** @type {TaskStatus[]} */ (rows)
  if (!row) throw new Error(`Enrollgate knows no task ${id}: it does not exist, or its status has no meaning`)
  return row
}

/** @param {TaskStatus} task */
function describe (task) {
  const parts = [`task ${task.task_id} ${task.state}`]
  if (task.seconds_left !== null) parts.push(`${task.seconds_left} s until the enrollment timeout`)
  if (task.queue_position !== null) parts.push(`number ${task.queue_position} in the queue`)
  if (task.percent !== null) parts.push(`${task.percent} %`)
  if (task.items_total !== null) parts.push(`${task.items_done} of ${task.items_total} items`)
  if (task.bytes_done !== null) parts.push(`${(task.bytes_done / 1e6).toFixed(1)} MB`)
  if (task.bytes_per_second) parts.push(`${(task.bytes_per_second / 1e6).toFixed(1)} MB/s`)
  if (task.current_item) parts.push(`'${task.current_item}'`)
  if ((task.attempt ?? 1) > 1) parts.push(`attempt ${task.attempt} of ${task.attempts}`)
  if (task.destination_url) parts.push(task.destination_url)
  return parts.join(', ')
}

/** @param {Connection} database @param {number | string} id */
async function watch (database, id) {
  for (let last = ''; ; await sleep(1000)) {
    const task = await taskStatus(database, id)
    const line = describe(task)
    if (line !== last) console.log(line)
    last = line
    if (task.state === 'completed') return
    if (task.state === 'failed') throw new Error(explain(task))
  }
}

/** @param {TaskStatus} task */
function explain (task) {
  const why = [task.reason, task.message].filter(Boolean).join(': ')
  return [describe(task), why && `why: ${why}`, task.remedy && `do: ${task.remedy}`].filter(Boolean).join('\n')
}

/** What `--email` and `--host` name, as Enrollgate compares it. @param {Values} values */
function scopeOf (values) {
  if (values.email && values.host) throw new UsageError('give --email or --host, not both: a pause is about one of them')
  if (values.email) {
    const subject = createHash('sha256').update(String(values.email).trim().toLowerCase()).digest('hex')
    return { scope: 'account', subject, name: 'this account' }
  }
  if (!values.host) return { scope: 'installation', subject: '', name: 'everything' }
  const host = String(values.host).trim().toLowerCase().replace(/\.$/, '')
  return { scope: 'host', subject: host, name: `the host ${host}` }
}

/** @param {Connection} database @param {Values} values */
async function pause (database, values) {
  const { scope, subject, name } = scopeOf(values)
  const minutes = values.minutes === undefined ? null : Number(values.minutes)
  if (minutes !== null && !(minutes > 0)) throw new UsageError(`--minutes ${values.minutes} is not valid: use a number above 0`)
  const seconds = minutes === null ? null : Math.ceil(minutes * 60)
  try {
    // Without a time it ends after ENROLLGATE_HOLD_LIMIT.
    await database.execute(
      `INSERT INTO enrollgate_holds (installation, scope, subject, message, opened_by, ends_at)
       VALUES (?, ?, ?, ?, 'writer.mjs', UTC_TIMESTAMP(6) + INTERVAL ? SECOND)`,
      [String(values.installation), scope, subject, String(values.why ?? '') || null, seconds]
    )
  } catch (caught) {
    const { code, message } = /** @type {Error & { code?: string }} */ (caught)
    if (code === 'ER_DUP_ENTRY') throw new Error(`${name} is paused already: resume it first`)
    if (message.includes('host_is_name')) throw new UsageError(`--host ${values.host} is not valid: use a name such as courses.example.com`)
    throw caught
  }
  console.log(`${name} is paused: live runs go on, and no further run is launched`)
}

/** @param {Connection} database @param {Values} values */
async function resume (database, values) {
  const { scope, subject, name } = scopeOf(values)
  const [result] = await database.execute(
    `UPDATE enrollgate_holds SET closed_at = UTC_TIMESTAMP(6), closed_by = 'writer.mjs'
     WHERE installation = ? AND kind = 'pause' AND scope = ? AND subject = ? AND closed_at IS NULL`,
    [String(values.installation), scope, subject]
  )
  if (/** @type {ResultSetHeader} */ (result).affectedRows === 0) throw new Error(`there is no pause of ${name}`)
  console.log(`the pause of ${name} is over`)
}

/** @param {Connection} database @param {Values} values */
async function holds (database, values) {
  const [rows] = await database.execute(
    `SELECT id, kind, scope, subject, reason, message, remedy, opened_at, opened_by, probe_at, ends_at
     FROM enrollgate_holds WHERE installation = ? AND closed_at IS NULL ORDER BY id`,
    [String(values.installation)]
  )
  for (const hold of /** @type {Hold[]} */ (rows)) {
    const what = [hold.scope, hold.subject].filter(Boolean).join(' ')
    const why = [hold.reason, hold.message].filter(Boolean).join(': ')
    const until = hold.ends_at ? `, until ${hold.ends_at.toISOString()}` : ''
    console.log(`${hold.kind} ${hold.id} of ${what}, since ${hold.opened_at.toISOString()} by ${hold.opened_by}${until}: ${why}`)
    if (hold.remedy) console.log(`  do: ${hold.remedy}`)
  }
}

/** @param {string | undefined} command @param {string[]} rest @param {Values} values @param {Connection} database */
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
    case 'watch': return await watch(database, taskId(rest[0]))
    case 'why': return console.log(explain(await taskStatus(database, taskId(rest[0]))))
    case 'pause': return await pause(database, values)
    case 'resume': return await resume(database, values)
    case 'holds': return await holds(database, values)
    case 'play': return await play(database, values)
    default: throw new UsageError(command ? `unknown command '${command}'` : 'no command given')
  }
}

async function main () {
  const text = /** @type {const} */ ({ type: 'string' })
  const { values, positionals: [command, ...rest] } = parseArgs({
    allowPositionals: true,
    options: {
      email: text, 'course-url': text, status: text, seconds: text, site: text, course: text,
      host: text, minutes: text, why: text, installation: { type: 'string', default: 'enrollgate' },
      fail: { type: 'boolean' }, stall: { type: 'boolean' }
    }
  })
  if (!process.env.DATABASE_URL) throw new UsageError('DATABASE_URL is not set: set it to mysql://user:password@host:3306/database')
  const database = await mysql.createConnection({ uri: process.env.DATABASE_URL, timezone: 'Z', supportBigNumbers: true })
  try {
    await run(command, rest, values, database)
  } finally {
    await database.end()
  }
}

try {
  await main()
} catch (caught) {
  const error = /** @type {Error & { code?: string }} */ (caught)
  const usage = error instanceof UsageError || error.code?.startsWith('ERR_PARSE_ARGS')
  console.error(usage ? `${error.message}\n${USAGE}` : error.message || error.code)
  process.exitCode = usage ? 2 : 1
}
