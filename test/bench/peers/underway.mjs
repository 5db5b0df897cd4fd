// Ours, by the driver that the others use too. The handler runs in the server.
import pg from 'pg'

export async function open(configuration) {
  const pool = new pg.Pool({ max: 10 })
  const value = async (sql, values) => Object.values((await pool.query({ text: sql, values, name: sql.slice(0, 60) })).rows[0] ?? {})[0]
  const queue = configuration === 'best' ? 'batches' : 'singles'
  return {
    settings: configuration === 'best' ? 'batch => 100, underway.max_workers as many as processors' : 'none',
    version: () => value('SELECT underway.version()'),
    async setup() {
      await pool.query(`CREATE EXTENSION IF NOT EXISTS underway;
        CREATE OR REPLACE FUNCTION nothing(jsonb) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
        CREATE OR REPLACE FUNCTION a_while(jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(0.1)';
        CREATE TABLE IF NOT EXISTS seen (at timestamptz);
        CREATE OR REPLACE FUNCTION see(jsonb) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO seen VALUES (clock_timestamp()); END'`)
      const batch = configuration === 'best' ? ', batch => 100' : ''
      await pool.query(`SELECT underway.create_queue('${queue}', 'nothing'${batch}), underway.create_queue('${queue}_see', 'see'${batch})`)
      await pool.query(`SELECT underway.create_queue('${queue}_warm', 'a_while')`)
      await pool.query(`SELECT underway.pause_queue('${queue}')`)
    },
    enqueue: (input) => value('SELECT underway.enqueue($1, $2)', [queue, input]),
    fill: (jobs) => value(`SELECT cardinality(underway.enqueue_many($1, array_agg('{"x": 1}'::jsonb))) FROM generate_series(1, $2::int)`, [queue, jobs]),
    clear: () => value('SELECT underway.purge_queue($1)', [queue]),
    // To the end of the last one: its priority is the least urgent. The workers have started before, as the others' have when
    // their first job starts.
    async drain(jobs) {
      const workers = Number(await value('SHOW underway.max_workers'))
      while (Number(await value("SELECT count(*) FROM underway.workers WHERE state <> 'starting'")) < workers) {
        await value(`SELECT count(underway.enqueue('${queue}_warm')) FROM generate_series(1, ${workers})`)
        const warm = await value('SELECT underway.enqueue($1, priority => 15)', [`${queue}_warm`])
        await pool.query(`CALL underway.wait_for('${warm}')`)
      }
      const last = await value('SELECT underway.enqueue($1, priority => 15)', [queue])
      const began = performance.now()
      await pool.query(`SELECT underway.resume_queue('${queue}')`)
      const { rows } = await pool.query(`CALL underway.wait_for('${last}', '2 min')`)
      const seconds = (performance.now() - began) / 1000
      if (rows[0].state !== 'succeeded') throw new Error(`the last task is ${rows[0].state}`)
      await pool.query(`SELECT underway.pause_queue('${queue}')`)
      return (jobs + 1) / seconds
    },
    async latency() {
      const offset = await clockOffset(value)
      const sent = performance.timeOrigin + performance.now()
      const id = await value('SELECT underway.enqueue($1)', [`${queue}_see`])
      await pool.query(`CALL underway.wait_for('${id}')`)
      const at = await value('DELETE FROM seen RETURNING 1000 * extract(epoch FROM at)::float8')
      return at - offset - sent
    },
  }
}

// How far the server's clock is ahead of ours, by the quickest of some round trips; taken once.
let offset
async function clockOffset(value) {
  if (offset !== undefined) return offset
  let quickest = Infinity
  for (let n = 0; n < 100; n++) {
    const before = performance.timeOrigin + performance.now()
    const server = await value('SELECT 1000 * extract(epoch FROM clock_timestamp())::float8')
    const after = performance.timeOrigin + performance.now()
    if (after - before < quickest) {
      quickest = after - before
      offset = server - (before + after) / 2
    }
  }
  return offset
}
