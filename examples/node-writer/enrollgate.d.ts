// What Enrollgate shows of your tasks: the view `enrollgate_task_status`, the holds and the reasons.
// docs/node.md explains each column. New columns, states and reasons may be added.

/** What a task is doing. `held`: it waits for a hold or pause, or is set aside and tried again. */
export type TaskState = 'waiting' | 'queued' | 'held' | 'running' | 'completed' | 'failed'

/** What a hold or pause is about. */
export type HoldScope = 'account' | 'host' | 'destination' | 'installation'

/** One row of `enrollgate_task_status`, read by mysql2 with `timezone: 'Z'`: all times are UTC. */
export interface TaskStatus {
  /** Text, if it is above Number.MAX_SAFE_INTEGER: set `supportBigNumbers: true` then. */
  task_id: number | string
  state: TaskState
  /** The status column of your table, as it is. */
  status: string | null
  /** Since when the task is in this state. */
  since: Date | null
  /** While it waits: seconds until the enrollment timeout. */
  seconds_left: number | null
  /** While it is queued: 1 is launched next. null beyond 10000. */
  queue_position: number | null
  run_number: number | null
  run_name: string | null
  attempt: number | null
  attempts: number | null
  /** 0 to 100, by items and their bytes. */
  percent: number | null
  items_done: number | null
  items_total: number | null
  bytes_done: number | null
  bytes_total: number | null
  bytes_per_second: number | null
  current_item: string | null
  /** The course's folder: on Google Drive, a link to open. */
  destination_url: string | null
  /** Why it failed, is on hold or cannot go on: one of docs/reasons.json, or 'Paused'. */
  reason: string | null
  /** What happened, in words. */
  message: string | null
  /** What to do about it. */
  remedy: string | null
  first_seen_at: Date | null
  enrolled_seen_at: Date | null
  claimed_at: Date | null
  launched_at: Date | null
  started_at: Date | null
  finished_at: Date | null
  recorded_at: Date | null
  progress_at: Date | null
  /** While a hold or pause keeps it from being launched: docs/holds.md. */
  hold_id: number | null
  /** What the hold is about. */
  hold_scope: HoldScope | null
  /** When the next probe run is due. */
  hold_probe_at: Date | null
  /** When the hold ends: then its tasks fail. After a pause they go on. */
  hold_ends_at: Date | null
}

/** One row of `enrollgate_holds`: docs/holds.md has the SQL that pauses, resumes and releases. */
export interface Hold {
  id: number
  installation: string
  kind: 'hold' | 'pause'
  scope: HoldScope
  /** Of an account: the SHA-256 of its e-mail address, in hexadecimal. Of a host: its name. Else empty. */
  subject: string
  /** One of docs/reasons.json, or 'Paused'. */
  reason: string
  message: string | null
  remedy: string | null
  opened_at: Date
  opened_by: string
  /** When the next probe run is due. */
  probe_at: Date | null
  /** When its tasks fail; after a pause, they go on. null: after ENROLLGATE_HOLD_LIMIT. */
  ends_at: Date | null
  /** null: it is open. */
  closed_at: Date | null
  closed_by: string | null
}

/** One entry of docs/reasons.json, and of `enrollgate reasons --json`. */
export interface ReasonEntry {
  reason: string
  means: string
  remedy: string
  retry_can_help: boolean
  exit_code: number
}
