// graphile-worker. Default: its own, one job at a time; best: the configuration that its documentation's page on
// performance gives its figures with.
import pg from 'pg'
import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import { packageVersion } from './version.mjs'

export async function open(configuration) {
  const best = configuration === 'best'
  const pool = new pg.Pool({ max: best ? 25 : 10 })
  pool.on('error', () => {})
  const logger = new Logger(() => (level, message) => { if (level === 'error') process.stderr.write(`graphile-worker: ${message}\n`) })
  const task = best ? 'best' : 'plain'
  const utils = await makeWorkerUtils({ pgPool: pool, logger })
  const preset = best ? { worker: { concurrentJobs: 24, maxPoolSize: 25, localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } } : {}
  return {
    settings: best ? 'concurrentJobs 24, maxPoolSize 25, localQueue.size 500, completeJobBatchDelay 0, failJobBatchDelay 0' : 'none',
    version: async () => packageVersion('graphile-worker'),
    setup: () => utils.migrate(),
    enqueue: (payload) => utils.addJob(task, payload),
    async fill(jobs) {
      for (let n = 0; n < jobs; n += 5000) {
        await utils.addJobs(Array.from({ length: Math.min(5000, jobs - n) }, () => ({ identifier: task, payload: { x: 1 } })))
      }
    },
    clear: () => pool.query('DELETE FROM graphile_worker._private_jobs'),
    work: (handler) => run({ pgPool: pool, logger, noHandleSignals: true, preset, taskList: { [task]: async (payload) => { handler(payload) } } }),
  }
}
