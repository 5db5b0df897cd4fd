#include "reclaim.hpp"

#include "clock.hpp"
#include "dequeue.hpp"
#include "pg/identity.hpp"
#include "pg/statement.hpp"
#include "pg/transaction.hpp"
#include "settings.hpp"
#include "slots.hpp"
#include "waitpoint.hpp"

#include <signal.h>

#include <algorithm>

namespace underway::reclaim {

namespace {
constexpr int most_at_once = 1000;
constexpr TimestampTz look_again = 100 * 1000;  // at what was cancelled and has not ended

pg::statement reclaim_boot("SELECT underway_internal.reclaim_boot($1, $2, $3)", INT8OID, BOOLOID,
                           INT4OID);
pg::statement reclaim_worker("SELECT underway_internal.reclaim_worker($1, $2, $3, $4, $5, $6)",
                             INT8OID, INT4OID, INT4OID, TEXTOID, UUIDOID, INT4OID);
pg::statement reclaim_stale("SELECT * FROM underway_internal.reclaim_stale(NULL, $1, $2)", INT4OID,
                            INT4OID);
pg::statement next_stale("SELECT underway_internal.next_stale($1)", TIMESTAMPTZOID);
pg::statement look_at_maps("SELECT underway_internal.look_at_maps()");
pg::statement apply_cancels("SELECT * FROM underway_internal.apply_cancels()");

TimestampTz stale_at = DT_NOBEGIN;  // of the test clock
int64 seen_offset = 0;

const char* name_of(death how) noexcept {
  switch (how) {
    case death::asked:
      return "asked";
    case death::own:
      return "own";
    case death::timed_out:
      return "timed_out";
  }
  return "asked";
}

void run(pg::statement* statement, const pg::value* args) {
  pg::transaction tx(pg::transaction::kind::ours);
  {
    pg::as_owner owner(true);
    statement->run(args);
  }
  tx.commit();
}
}  // namespace

void earlier_work(database_entry* db) {
  const pg::value args[3] = {pg::of(shared->boot), pg::of(shared->unclean),
                             pg::of(settings::max_crashes)};
  run(&reclaim_boot, args);
  // What an earlier coordinator took from a worker and did not live to give back goes on when that
  // worker is gone.
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    if (slot->database == db->oid && slot->revoked > 0) {
      slot->retire = true;
      (void)wake_idle(db->oid, slot->role, shared->slots_size);
    }
  }
}

namespace {

struct unbegun {
  int count = 0;
  claimed_task tasks[worker_slot::max_prefetch];
};

// What a worker has claimed and not begun, and does not hold any longer after this. Of one that
// lives, only while it says `overdue`: else it is past what that was said of, and may hold others
// by now.
void take_unbegun(worker_slot* slot, bool lives, unbegun* back) noexcept {
  SpinLockAcquire(&slot->mutex);
  const int last = slot->overdue.exchange(false) || !lives
                       ? Min(slot->prefetched, worker_slot::max_prefetch)
                       : 0;
  for (int i = slot->begun; i < last; i++) {
    back->tasks[back->count].id = slot->ids[i];
    back->tasks[back->count].attempt = slot->attempts[i];
    back->count++;
  }
  if (back->count > 0) {
    slot->prefetched = slot->begun;
    slot->revoked += back->count;
    slot->tasks -= back->count;
  }
  SpinLockRelease(&slot->mutex);
}

}  // namespace

void dead_workers(database_entry* db) {
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    if (slot->state == slot_state::dead && slot->database == db->oid) {
      unbegun back;
      take_unbegun(slot, false, &back);
      give_back(back.tasks, back.count);
      pg::value args[6] = {pg::of(shared->boot), pg::of(n),
                           pg::of(static_cast<int32>(slot->generation))};
      pg::call([&args, slot] { args[3] = pg::of_text(name_of(slot->died)); });
      const pg_uuid_t culprit = slot->task_id;  // the process is gone: nobody changes it
      args[4] = pg::of(slot->running ? &culprit : nullptr);
      args[5] = pg::of(settings::max_crashes);
      run(&reclaim_worker, args);
      slot->tasks = 0;
      db->looks = true;
      slot->revoked = 0;
      slot->state = slot_state::free;
      worker_left(db->oid);
    }
  }
}

void overdue(database_entry* db) {
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    if (slot->database != db->oid || !slot->overdue) {
      continue;
    }
    unbegun back;
    take_unbegun(slot, true, &back);
    give_back(back.tasks, back.count);
    slot->revoked -= back.count;
  }
}

TimestampTz stale_leases(database_entry* db) {
  if (seen_offset != shared->clock_offset) {
    seen_offset = shared->clock_offset;
    stale_at = DT_NOBEGIN;
  }
  const TimestampTz now = clock_now();
  if (stale_at <= now || db->next_stale <= now) {
    db->next_stale = DT_NOEND;
    bool more = false;
    TimestampTz again = DT_NOEND;
    pg::transaction tx(pg::transaction::kind::ours);
    pg::call([] { waitpoint(waitpoint_id::stale_leases); });
    {
      pg::as_owner owner(true);
      const pg::value args[3] = {pg::of(most_at_once), pg::of(settings::max_crashes),
                                 pg::of_time(now)};
      reclaim_stale.run(args, [&](const pg::row& r) {
        more = r.int8(1) >= most_at_once && r.int8(2) + r.int8(3) > 0;
        again = r.null(4) ? DT_NOEND : r.time(4);
      });
      next_stale.run(&args[2],
                     [](const pg::row& r) { stale_at = r.null(1) ? DT_NOEND : r.time(1); });
    }
    tx.commit();
    stale_at = more ? now : std::min(stale_at, again);
  }
  const TimestampTz next = std::min<TimestampTz>(stale_at, db->next_stale);
  return next == DT_NOEND ? next : next - shared->clock_offset;
}

TimestampTz maps(database_entry* db) {
  if (db->looks.exchange(false)) {
    run(&look_at_maps, nullptr);
  }
  return DT_NOEND;
}

TimestampTz cancels(database_entry* db) {
  if (!db->cancels.exchange(false)) {
    return DT_NOEND;
  }
  pg_uuid_t running[64];
  int count = 0;
  pg::transaction tx(pg::transaction::kind::ours);
  {
    pg::as_owner owner(true);
    apply_cancels.run(nullptr, [&](const pg::row& r) {
      if (count < static_cast<int>(lengthof(running))) {
        running[count++] = r.uuid(1);
      }
    });
  }
  tx.commit();
  for (int n = 0; n < count; n++) {
    interrupt_task(db->oid, running[n]);
  }
  const TimestampTz too_long =
      GetCurrentTimestamp() - static_cast<TimestampTz>(settings::cancel_grace) * 1000;
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    if (slot->database != db->oid || slot->cancelled_at == 0) {
      continue;
    }
    // As the interrupt: under the lock, so that it cannot be meant for the task after this one.
    SpinLockAcquire(&slot->mutex);
    const TimestampTz cancelled_at = slot->cancelled_at;
    const int pid = slot->pid;
    if (slot->running && cancelled_at != 0 && cancelled_at < too_long && pid != 0) {
      (void)kill(pid, SIGTERM);
    }
    SpinLockRelease(&slot->mutex);
  }
  if (count == 0) {
    return DT_NOEND;
  }
  db->cancels = true;
  return GetCurrentTimestamp() + look_again;
}

}  // namespace underway::reclaim
