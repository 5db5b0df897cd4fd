#include "coordinator.hpp"

#include "clock.hpp"
#include "external.hpp"
#include "pg/identity.hpp"
#include "pg/transaction.hpp"
#include "pool.hpp"
#include "process.hpp"
#include "reclaim.hpp"
#include "safety_check.hpp"
#include "settings.hpp"
#include "steer.hpp"
#include "upkeep.hpp"
#include "waitpoint.hpp"

#include <algorithm>
#include <optional>

extern "C" PGDLLEXPORT void underway_coordinator_main(Datum arg);

namespace underway {

namespace {

// How this process ends, and so what the launcher does about it.
enum class ending {
  failure,  // another one after a while: an error, or somebody terminated us
  at_once,  // another one now
  later,    // another one when the database that we made room for has had its turn
  idle      // another one when somebody asks, or at wakes_at
};

constexpr TimestampTz turn = USECS_PER_SEC;

database_entry* db = nullptr;  // null once it was forgotten
ending how = ending::failure;
Oid extension = InvalidOid;
queue_list queues;
uint32 seen_generation = 0;
int seen_reloads = 0;
TimestampTz next_safety_check = DT_NOBEGIN;
TimestampTz last_busy = DT_NOBEGIN;
bool had_workers = false;

void leave(int, Datum) {
  if (db == nullptr) {
    return;
  }
  const TimestampTz now = GetCurrentTimestamp();
  db->starving = 0;
  db->yield = false;
  db->coordinator_pid = 0;
  switch (how) {
    case ending::failure:
      db->retry_at =
          now + std::min<TimestampTz>(600, TimestampTz{1} << std::min(db->failures++, 10)) *
                    USECS_PER_SEC / 10;
      db->unsure = true;
      db->wanted = true;
      break;
    case ending::at_once:
      db->retry_at = DT_NOBEGIN;
      db->wanted = true;
      break;
    case ending::later:
      db->retry_at = now + turn;
      db->wanted = true;
      break;
    case ending::idle:
      break;
  }
  // Whoever poked us while we were about to leave has not seen the pid go, or we see the poke here.
  if (db->poked.exchange(false) || db->recheck || db->restart) {
    db->wanted = true;
  }
  poke_launcher();
}

void forget() noexcept {
  // As its coordinator to the last: another one that came meanwhile would be one of no database.
  if (forget_database(db)) {
    db = nullptr;
    poke_launcher();  // for slots that our workers may have left
  } else {
    how = ending::at_once;
  }
}

Oid find_extension() {
  pg::transaction tx(pg::transaction::kind::ours);
  const Oid oid = pg::extension_oid();
  tx.commit();
  return oid;
}

// What others may do for each queue, as of now.
void publish(uint32 generation) {
  bool blocked = false;
  int held = 0;
  for (queue_info& q : queues) {
    if (q.why == obstacle::dropped && !q.unfinished && q.entry != nullptr &&
        !OidIsValid(q.entry->role) && !q.entry->quiet) {
      // Room for another queue. It was published as dropped before we read the table, so that who
      // has committed a task into it since has told us, or will find it gone and tell us: we look
      // again.
      q.entry = nullptr;
      forget_queue_entry(db->oid, q.id);
    }
    if (q.entry == nullptr) {
      continue;
    }
    if (!settings::enabled && q.why == obstacle::none) {
      q.why = obstacle::paused;
    }
    if (q.entry->full.exchange(false)) {
      wake_external(db->oid, q.id, 1);  // it may have been held
    }
    const bool runs = q.why == obstacle::none;
    q.entry->unlimited = q.concurrency == 0;
    q.entry->quiet = !runs && q.why != obstacle::dropped;
    q.entry->role = runs ? q.owner : InvalidOid;
    blocked = blocked || (!runs && q.why > obstacle::external);
    held += q.why == obstacle::held;
  }
  // Unless somebody has found a queue blocked meanwhile: then we look again, and must hear of what
  // comes until we do.
  db->blocked = blocked || db->generation != generation;
  if (blocked) {
    db->next_expiry = DT_NOBEGIN;  // nobody claims from it: its tasks' ttl is for us to mind
  }
  if (held > 0 && !db->told_held.exchange(true)) {
    pg::call([held] {
      ereport(WARNING, (errmsg("underway: %d queues of this database are held: they come from a "
                               "copy of another database",
                               held),
                        errhint("If they are to run here: SELECT underway.adopt();")));
    });
  }
  if (held == 0) {
    db->told_held = false;
  }
}

void load_queues() {
  const uint32 generation = db->generation;
  if (generation == seen_generation) {
    return;
  }
  db->blocked = true;  // while we look, so that a handler made meanwhile makes us look again
  pg::transaction tx(pg::transaction::kind::ours);
  queues.load(InvalidOid);
  tx.commit();
  publish(generation);
  seen_generation = generation;
}

void safety_check() {
  const TimestampTz real = GetCurrentTimestamp();
  if (next_safety_check > real) {
    return;
  }
  const bool at_start = next_safety_check == DT_NOBEGIN;
  // Before it looks: one that fails each time must not keep the rest of the round from its turn.
  next_safety_check =
      real + static_cast<TimestampTz>(settings::safety_check_interval) * USECS_PER_SEC;
  if (!at_start) {
    seen_generation = db->generation - 1;
    load_queues();
    look_through(db, queues);
  }
}

// When a queue next has something to do, that was not due at `then`.
TimestampTz next_due(TimestampTz then) noexcept {
  TimestampTz next = DT_NOEND;
  for (queue_info& q : queues) {
    if (q.why == obstacle::none && q.entry != nullptr && q.entry->earliest > then) {
      next = std::min<TimestampTz>(next, q.entry->earliest);
    }
  }
  return next;
}

TimestampTz to_real(TimestampTz t) noexcept {
  return t == DT_NOEND || t == DT_NOBEGIN ? t : t - shared->clock_offset;
}

bool has_due_work() noexcept {
  const TimestampTz now = clock_now();
  return std::any_of(queues.begin(), queues.end(), [now](const queue_info& q) {
    return q.why == obstacle::none && q.entry != nullptr && q.entry->earliest <= now;
  });
}

bool has_workers() noexcept { return count_workers(db->oid, InvalidOid).database > 0; }

// What fails is told at the end of the round, and keeps nothing else from its turn.
template <class F> TimestampTz look(F&& at, std::optional<pg::error>* failed) {
  try {
    return at(db);
  } catch (pg::error& e) {
    if (!*failed) {
      failed->emplace(std::move(e));
    }
    return DT_NOEND;
  }
}

// One round; returns until when to sleep, in real time.
TimestampTz round() {
  db->poked = false;
  db->off = !settings::enabled;
  if (seen_reloads != process::reloads()) {
    seen_reloads = process::reloads();
    db->generation++;  // whether queues may run is a matter of settings too
    if (!settings::enabled) {
      pool::retire_all(db->oid);
    }
  }
  load_queues();
  safety_check();
  pool::look_after_starts(db);
  reclaim::dead_workers(db);
  reclaim::overdue(db);
  upkeep::survey(queues);
  // What becomes due after this is ours to wake somebody for, now or in the next round: whoever has
  // found that it is not due yet counts on us, and may be asleep by the time that we look.
  const TimestampTz then = clock_now();
  TimestampTz next = pool::fit(db, queues);
  pg::call([] { waitpoint(waitpoint_id::fitted); });
  std::optional<pg::error> failed;
  next = std::min(next, look(reclaim::maps, &failed));
  if (upkeep::has_home(queues)) {
    next = std::min(next, look(steer::run, &failed));  // before what it cancels is looked at
    next = std::min(next, look([](database_entry* d) { return upkeep::run(d, queues); }, &failed));
    next = std::min(next, look(reclaim::stale_leases, &failed));
    next = std::min(next, look(reclaim::cancels, &failed));
  }
  if (failed) {
    throw std::move(*failed);
  }
  next = std::min(next, next_safety_check);
  // Published before the last look: who enqueues something earlier than this wakes us.
  const TimestampTz due = next_due(then);
  db->wakes_at = std::min(due, next == DT_NOEND ? next : next + shared->clock_offset);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return std::min(next, to_real(std::min(due, next_due(then))));
}

// True: this process is done.
bool rechecked() {
  if (db->recheck.exchange(false)) {
    const Oid now = find_extension();
    if (now != extension) {
      pool::terminate_all(db->oid);
      how = ending::at_once;
      if (OidIsValid(now)) {
        LWLockAcquire(registry_lock, LW_EXCLUSIVE);
        forget_queue_entries(db->oid);  // numbers of queues begin anew
        LWLockRelease(registry_lock);
      } else {
        forget();
      }
      return true;
    }
  }
  if (db->restart.exchange(false)) {
    pool::retire_all(db->oid);
    how = ending::at_once;
    return true;
  }
  if (db->yield) {
    pool::retire_all(db->oid);
    how = has_workers() || has_due_work() ? ending::later : ending::idle;
    return true;
  }
  const bool has = has_workers();
  if (has || had_workers || db->starving > 0) {
    last_busy = GetCurrentTimestamp();
  }
  had_workers = has;
  // Nothing to do for a while: room for the coordinators of other databases. The launcher minds
  // wakes_at.
  if (GetCurrentTimestamp() - last_busy >
      static_cast<TimestampTz>(settings::worker_idle_timeout) * USECS_PER_SEC) {
    how = ending::idle;
    return true;
  }
  if (db->holds > 0) {
    how = ending::at_once;
    return true;
  }
  return false;
}

void run() {
  extension = find_extension();
  if (!OidIsValid(extension)) {
    forget();
    return;
  }
  MemoryContext loop = pg::call([] {
    return AllocSetContextCreate(TopMemoryContext, "underway coordinator", ALLOCSET_DEFAULT_SIZES);
  });
  seen_generation = db->generation - 1;
  last_busy = GetCurrentTimestamp();
  bool caught_up = false;
  int failures = 0;
  do {
    pg::call([loop] {
      MemoryContextSwitchTo(loop);
      MemoryContextReset(loop);
      process::house_keeping();
    });
    TimestampTz until = DT_NOEND;
    try {
      if (!caught_up) {
        reclaim::earlier_work(db);
        db->cancels = true;  // a crash may have come before they were applied
        db->looks = true;
        db->controls = true;
        caught_up = true;
      }
      until = round();
    } catch (pg::error& e) {
      // What asked for the look that failed was taken back before it.
      caught_up = false;
      db->next_expiry = db->next_stale = db->next_deadline = DT_NOBEGIN;
      process::endure(e, &failures);
      continue;
    }
    db->failures = 0;
    process::recovered(&failures);
    TimestampTz wait = until == DT_NOEND ? 3600 * USECS_PER_SEC : until - GetCurrentTimestamp();
    if (!has_workers()) {
      wait = std::min(
          wait, static_cast<TimestampTz>(settings::worker_idle_timeout) * USECS_PER_SEC + 1000);
    }
    if (wait > 0 && !db->poked && !db->recheck && !db->restart && !db->yield && db->holds == 0) {
      pg::call([] { pgstat_report_activity(STATE_IDLE, nullptr); });
      (void)process::sleep(static_cast<long>(wait / 1000) + 1, "UnderwayCoordinatorIdle");
    }
  } while (!rechecked());
}

void attach(int number) {
  database_entry* entry = shared->databases() + number;
  Oid expected = InvalidOid;
  memcpy(&expected, MyBgworkerEntry->bgw_extra, sizeof expected);
  // A launcher that was restarted may have asked for one more; or for one while the entry was being
  // forgotten.
  LWLockAcquire(registry_lock, LW_EXCLUSIVE);
  const bool mine = OidIsValid(expected) && entry->oid == expected && entry->coordinator_pid == 0;
  if (mine) {
    entry->coordinator_proc = pg::my_proc_number();
    entry->coordinator_since = GetCurrentTimestamp();
    entry->coordinator_pid = MyProcPid;
  }
  if (entry->oid == expected) {
    entry->starting = false;
  }
  LWLockRelease(registry_lock);
  poke_launcher();  // it may start the next one
  if (!mine) {
    proc_exit(0);
  }
  db = entry;
  before_shmem_exit(leave, 0);
  // What is asked from here on, this process has not seen yet.
  db->wanted = false;
  db->recheck = false;
  db->restart = false;
  // Whoever holds the database first says so and then looks for our pid. Who had it while we were
  // being started may have dropped it: the launcher is to look again.
  if (db->holds > 0 || db->unsure) {
    how = ending::at_once;
    proc_exit(0);
  }
}

}  // namespace

bool start_coordinator(database_entry* entry, int number, BackgroundWorkerHandle** handle) {
  BackgroundWorker worker = {};
  worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
  worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
  worker.bgw_restart_time = BGW_NEVER_RESTART;
  strlcpy(worker.bgw_library_name, "underway", BGW_MAXLEN);
  strlcpy(worker.bgw_function_name, "underway_coordinator_main", BGW_MAXLEN);
  strlcpy(worker.bgw_name, "underway coordinator", BGW_MAXLEN);
  strlcpy(worker.bgw_type, "underway coordinator", BGW_MAXLEN);
  worker.bgw_main_arg = Int32GetDatum(number);
  const Oid oid = entry->oid;
  memcpy(worker.bgw_extra, &oid, sizeof oid);
  worker.bgw_notify_pid = MyProcPid;
  return RegisterDynamicBackgroundWorker(&worker, handle);
}

}  // namespace underway

void underway_coordinator_main(Datum arg) {
  using namespace underway;
  attach(DatumGetInt32(arg));
  process::start(db->oid, InvalidOid, MyBgworkerEntry->bgw_name);
  pg::boundary([] {
    try {
      run();
    } catch (pg::error&) {
      if (process::extension_is_gone()) {
        db->recheck = true;  // the next one forgets the database
        how = ending::at_once;
        return;
      }
      throw;
    }
  });
  proc_exit(0);
}
