// driver.mjs SYSTEM CONFIGURATION WORKLOAD OPTIONS: one run of one workload; prints its result as one line of JSON.
// Each system's file says how it is set up, enqueued to and worked; what is measured, and how, stands here, once for all.
const [system, configuration, workload, given] = process.argv.slice(2)
const options = JSON.parse(given ?? '{}')
const { open } = await import(`./${system}.mjs`)
const peer = await open(configuration)

const now = () => performance.timeOrigin + performance.now() // milliseconds
const sleep = (ms) => new Promise((done) => setTimeout(done, ms))

const workloads = {
  async setup() {
    await peer.setup()
    return { version: await peer.version(), settings: peer.settings }
  },

  // Jobs per second that 10 callers enqueue, each the next when it has the answer to the last.
  async enqueue({ seconds }) {
    let count = 0
    const began = now()
    await Promise.all(Array.from({ length: 10 }, async () => {
      while (now() - began < 1000 * seconds) {
        await peer.enqueue({ x: 1 })
        count++
      }
    }))
    return count / ((now() - began) / 1000)
  },

  async clear() {
    await peer.clear()
  },

  async fill({ jobs }) {
    await peer.fill(jobs)
  },

  // Jobs per second from the start of the first to the start of the last one, or of what has run when the time is over.
  async drain({ jobs, seconds }) {
    if (peer.drain) return await peer.drain(jobs)
    let count = 0, first, last, all
    const ended = new Promise((done) => { all = done })
    await peer.work(() => {
      last = now()
      first ??= last
      if (++count === jobs) all()
    })
    await Promise.race([ended, sleep(1000 * seconds)])
    return count < 2 ? count / seconds : (count - 1) / ((last - first) / 1000)
  },

  // Milliseconds from the call that enqueues to the start of the handler; none is enqueued before the last has run.
  async latency({ jobs, seconds }) {
    const seen = []
    const sample = peer.latency ?? await (async () => {
      let arrived
      await peer.work(() => arrived(now()))
      return async () => {
        const ran = new Promise((done) => { arrived = done })
        const sent = now()
        await peer.enqueue({ x: 1 })
        return (await ran) - sent
      }
    })()
    const warm = now()
    for (let n = 0; n < 20 && now() - warm < 2000; n++) await sample() // the first ones fill caches
    const began = now()
    while (seen.length < jobs && now() - began < 1000 * seconds) {
      await sleep(4 + 6 * Math.random())
      seen.push(await sample())
    }
    return seen
  },
}

const result = await workloads[workload](options)
process.stdout.write(JSON.stringify(result ?? null) + '\n')
process.exit(0) // whatever a system still has open
