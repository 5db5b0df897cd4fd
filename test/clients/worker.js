// A worker with node-postgres. The connection comes from PGHOST and friends. Ends when nothing has come for a second.
const { Client } = require('pg');

async function run() {
  const client = new Client();
  const heart = new Client(); // heartbeats need a connection of their own: the other one is in its transaction
  await Promise.all([client.connect(), heart.connect()]);
  const beat = async (lease) =>
    (await heart.query('SELECT underway.heartbeat($1, $2) AS answer', [lease, { at: 'envelope' }])).rows[0].answer;
  for (;;) {
    const { rows: [{ queue }] } = await client.query('CALL underway.wait_for_work($1, $2)', [['letters'], '1 s']);
    if (queue === null) break;
    const { rows } = await client.query("SELECT id, lease, input FROM underway.dequeue('letters', worker => 'node')");
    for (const { id, lease, input } of rows) {
      if (await beat(lease) !== 'ok') continue; // lost, or cancelled
      const timer = setInterval(() => beat(lease).catch(() => {}), 10000);
      try {
        if (input.to === 'nobody') throw new Error('no such recipient');
        await client.query('BEGIN');
        await client.query('SELECT underway.lock_task($1)', [lease]);
        await client.query('INSERT INTO sent VALUES ($1, $2, $3)', [id, input.to, 'node']);
        await client.query('SELECT underway.complete($1, $2)', [lease, { sent: true }]);
        await client.query('COMMIT');
      } catch (error) {
        await client.query('ROLLBACK');
        await client.query('SELECT underway.fail($1, $2, retryable => false)', [lease, error.message]);
      } finally {
        clearInterval(timer);
      }
    }
  }
  await Promise.all([client.end(), heart.end()]);
}

run().catch((error) => { console.error(error); process.exit(1); });
