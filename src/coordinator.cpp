#include "coordinator.hpp"

#include "clock.hpp"
#include "external.hpp"
#include "pg/identity.hpp"
#include "pg/transaction.hpp"
#include "pool.hpp"
#include "process.hpp"
#include "reclaim.hpp"
#include "settings.hpp"
#include "upkeep.hpp"

#include <algorithm>

extern "C" PGDLLEXPORT void underway_coordinator_main(Datum arg);

namespace underway {

namespace {

database_entry* db = nullptr;
Oid extension = InvalidOid;
bool for_good = false;  // this process is not to be followed by another until somebody asks
queue_list queues;
uint32 seen_generation = 0;
bool seen_enabled = true;
TimestampTz next_safety_check = DT_NOBEGIN;
TimestampTz last_busy = DT_NOBEGIN;
bool told_held = false;

void leave(int, Datum) {
  db->coordinator_pid = 0;
  const bool poked = db->poked.exchange(false);
  if (for_good && poked && db->oid != InvalidOid) {
    db->wanted = true;  // while it was about to leave
  }
  if (!for_good && db->oid != InvalidOid) {
    db->wanted = true;
    db->retry_at = GetCurrentTimestamp() + std::min<TimestampTz>(60, TimestampTz{1} << std::min(db->failures++, 6)) * USECS_PER_SEC / 10;
  }
  poke_launcher();
}

Oid find_extension() {
  pg::transaction tx(pg::transaction::kind::ours);
  const Oid oid = pg::extension_oid();
  tx.commit();
  return oid;
}

// What others may do for each queue, as of now.
void publish() {
  bool blocked = false;
  int held = 0;
  for (queue_info& q : queues) {
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
    q.entry->quiet = !runs && q.why != obstacle::dropped;
    q.entry->role = runs ? q.owner : InvalidOid;
    blocked = blocked || (!runs && q.why > obstacle::external);
    held += q.why == obstacle::held;
  }
  db->blocked = blocked;
  if (held > 0 && !told_held) {
    told_held = true;
    pg::call([held] {
      ereport(WARNING, (errmsg("underway: %d queues of this database are held: they come from a copy of another database", held),
                        errhint("If they are to run here: SELECT underway.adopt();")));
    });
  }
}

void load_queues() {
  const uint32 generation = db->generation;
  if (generation == seen_generation && settings::enabled == seen_enabled) {
    return;
  }
  db->blocked = true;  // while we look, so that a handler made meanwhile makes us look again
  pg::transaction tx(pg::transaction::kind::ours);
  queues.load(InvalidOid);
  tx.commit();
  publish();
  seen_generation = generation;
  seen_enabled = settings::enabled;
}

void safety_check() {
  const TimestampTz real = GetCurrentTimestamp();
  if (next_safety_check > real) {
    return;
  }
  if (next_safety_check != DT_NOBEGIN) {
    reset_all_marks(db->oid);
    seen_generation = db->generation - 1;
    load_queues();
  }
  next_safety_check = real + static_cast<TimestampTz>(settings::safety_check_interval) * USECS_PER_SEC;
}

// When a queue next has something to do, that is not due yet.
TimestampTz next_due() noexcept {
  const TimestampTz now = clock_now();
  TimestampTz next = DT_NOEND;
  for (queue_info& q : queues) {
    if (q.why == obstacle::none && q.entry != nullptr && q.entry->earliest > now) {
      next = std::min<TimestampTz>(next, q.entry->earliest);
    }
  }
  return next;
}

TimestampTz to_real(TimestampTz t) noexcept {
  return t == DT_NOEND || t == DT_NOBEGIN ? t : t - shared->clock_offset;
}

bool has_workers() noexcept { return count_workers(db->oid, InvalidOid).database > 0; }

// One round; returns until when to sleep, in real time.
TimestampTz round() {
  db->poked = false;
  load_queues();
  safety_check();
  pool::look_after_starts(db);
  reclaim::dead_workers(db);
  reclaim::overdue(db);
  upkeep::survey(queues);
  TimestampTz next = upkeep::run(db, queues);
  next = std::min({next, reclaim::stale_leases(db), reclaim::cancels(db)});
  next = std::min(next, pool::fit(db, queues));
  next = std::min(next, next_safety_check);
  // Published before the last look: who enqueues something earlier than this wakes us.
  const TimestampTz due = next_due();
  db->wakes_at = std::min(due, next == DT_NOEND ? next : next + shared->clock_offset);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return std::min(next, to_real(std::min(due, next_due())));
}

// True: this process is done.
bool rechecked() {
  if (db->recheck.exchange(false)) {
    const Oid now = find_extension();
    if (now != extension) {
      pool::terminate_all(db->oid);
      for_good = !OidIsValid(now);
      if (for_good) {
        forget_database(db);
      }
      return true;
    }
  }
  if (db->restart.exchange(false)) {
    pool::retire_all(db->oid);
    db->failures = 0;
    return true;
  }
  if (has_workers()) {
    last_busy = GetCurrentTimestamp();
  }
  // Nothing to do for a while: room for the coordinators of other databases. The launcher minds wakes_at.
  if (GetCurrentTimestamp() - last_busy > static_cast<TimestampTz>(settings::worker_idle_timeout) * USECS_PER_SEC) {
    for_good = true;
    return true;
  }
  return db->holds > 0;
}

void run() {
  extension = find_extension();
  if (!OidIsValid(extension)) {
    for_good = true;
    if (!db->recheck) {
      forget_database(db);
    } else {
      db->wanted = true;
    }
    return;
  }
  db->recheck = false;
  MemoryContext loop =
      pg::call([] { return AllocSetContextCreate(TopMemoryContext, "underway coordinator", ALLOCSET_DEFAULT_SIZES); });
  seen_generation = db->generation - 1;
  last_busy = GetCurrentTimestamp();
  reclaim::earlier_work(db);
  do {
    pg::call([loop] {
      MemoryContextSwitchTo(loop);
      MemoryContextReset(loop);
      process::house_keeping();
    });
    const TimestampTz until = round();
    db->failures = 0;
    TimestampTz wait = until == DT_NOEND ? 3600 * USECS_PER_SEC : until - GetCurrentTimestamp();
    if (!has_workers()) {
      wait = std::min(wait, static_cast<TimestampTz>(settings::worker_idle_timeout) * USECS_PER_SEC + 1000);
    }
    if (wait > 0 && !db->poked && !db->recheck && !db->restart && db->holds == 0) {
      pg::call([] { pgstat_report_activity(STATE_IDLE, nullptr); });
      (void)process::sleep(static_cast<long>(wait / 1000) + 1, "UnderwayCoordinatorIdle");
    }
  } while (!rechecked());
}

void attach(int entry) {
  db = shared->databases() + entry;
  Oid expected = InvalidOid;
  memcpy(&expected, MyBgworkerEntry->bgw_extra, sizeof expected);
  if (db->oid != expected || db->coordinator_pid != 0) {
    proc_exit(0);
  }
  before_shmem_exit(leave, 0);
  db->coordinator_proc = pg::my_proc_number();
  db->coordinator_pid = MyProcPid;
  db->starting = false;
  poke_launcher();  // which starts few at a time
  if (db->holds > 0) {
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
        db->recheck = true;
        return;
      }
      throw;
    }
  });
  proc_exit(0);
}
