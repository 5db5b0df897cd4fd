// pg-boss. Default: its own; best: batches of 500 fetched on while they come back full, 4 workers in the process, and
// LISTEN/NOTIFY, as documented with JobPollingOptions and useListenNotify.
import { PgBoss } from 'pg-boss'
import { packageVersion } from './version.mjs'

export async function open(configuration) {
  const best = configuration === 'best'
  const queue = best ? 'best' : 'plain'
  const work = best ? { batchSize: 500, burstWhenBatchFull: true, localConcurrency: 4 } : {}
  const boss = new PgBoss({ host: process.env.PGHOST, user: process.env.PGUSER, database: process.env.PGDATABASE, ...(best ? { useListenNotify: true } : {}) })
  boss.on('error', (error) => process.stderr.write(`pg-boss: ${error.message}\n`))
  await boss.start()
  return {
    settings: best ? 'batchSize 500, burstWhenBatchFull, localConcurrency 4, useListenNotify and notify' : 'none',
    version: async () => packageVersion('pg-boss'),
    setup: () => boss.createQueue(queue, best ? { notify: true } : {}),
    enqueue: (data) => boss.send(queue, data),
    async fill(jobs) {
      for (let n = 0; n < jobs; n += 5000) {
        await boss.insert(queue, Array.from({ length: Math.min(5000, jobs - n) }, () => ({ data: { x: 1 } })))
      }
    },
    clear: () => boss.deleteAllJobs(queue),
    work: (handler) => boss.work(queue, work, async (jobs) => { for (const job of jobs) handler(job) }),
  }
}
