#include "pool.hpp"

#include "clock.hpp"
#include "settings.hpp"
#include "worker.hpp"

#include <signal.h>

#include <algorithm>
#include <map>

namespace underway::pool {

namespace {

struct attempt {
  BackgroundWorkerHandle* handle;
  uint32 generation;
};

// By slot number, and by role: of this process alone. Never destroyed.
auto& started = *new std::map<int, attempt>;
struct trouble {
  int failures = 0;
  TimestampTz retry_at = DT_NOBEGIN;
};
auto& troubles = *new std::map<Oid, trouble>;
bool told_no_slot = false;
bool told_no_room = false;

void free_slot(worker_slot* slot) noexcept {
  slot->state = slot_state::free;
  worker_left(slot->database);
}

bool due_now(const queue_info& q, TimestampTz now) noexcept {
  return q.why == obstacle::none && q.entry != nullptr && q.entry->earliest <= now &&
         (q.concurrency == 0 || tasks_held(MyDatabaseId, q.id) < q.concurrency);
}

// The worker of the largest pool that has been there longest; only one at a time is asked.
void ask_to_give_way(int than) noexcept {
  worker_slot* best = nullptr;
  int best_size = than;
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    const slot_state state = slot->state;
    if (state != slot_state::busy && state != slot_state::idle) {
      continue;
    }
    if (slot->retire) {
      return;
    }
    const int size = count_workers(slot->database, slot->role).pool;
    if (size > best_size || (size == best_size && best != nullptr && slot->started_at < best->started_at)) {
      best = slot;
      best_size = size;
    }
  }
  if (best != nullptr) {
    best->retire = true;
    (void)wake_idle(best->database, best->role, shared->slots_size);
  }
}

bool others_starve_more(database_entry* mine, int size) noexcept {
  for (int n = 0; n < shared->databases_size; n++) {
    database_entry* db = shared->databases() + n;
    if (db != mine && db->oid != InvalidOid && db->starving > 0 && db->starving - 1 < size) {
      return true;
    }
  }
  return false;
}

// False: not now.
bool start_one(database_entry* db, Oid role, const worker_counts& counts) {
  const int per_database = settings::max_workers_per_database > 0 ? settings::max_workers_per_database : settings::max_workers;
  if (counts.database >= per_database || counts.all >= settings::max_workers || others_starve_more(db, counts.pool)) {
    return false;
  }
  worker_slot* slot = take_slot(db->oid, role);
  if (slot == nullptr) {
    return false;
  }
  attempt a = {nullptr, slot->generation};
  if (!pg::call([&] {
        MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
        const bool registered = start_worker(slot, &a.handle);
        MemoryContextSwitchTo(old);
        return registered;
      })) {
    slot->state = slot_state::free;
    if (!told_no_slot) {
      told_no_slot = true;
      pg::call([&] {
        ereport(WARNING, (errmsg("underway: no background worker slot is free; work goes on with %d workers", counts.all),
                          errhint("Raise max_worker_processes (now %d) and restart the server, or lower underway.max_workers (now %d).",
                                  max_worker_processes, settings::max_workers)));
      });
    }
    return false;
  }
  told_no_slot = false;
  started[number_of(slot)] = a;
  return true;
}

}  // namespace

TimestampTz fit(database_entry* db, queue_list& queues) {
  const TimestampTz now = clock_now();
  const TimestampTz real = GetCurrentTimestamp();
  TimestampTz again = DT_NOEND;
  db->saturated = false;     // until we know: who commits work from here on tells us
  std::map<Oid, int> roles;  // with due work, and how many workers each has
  for (const queue_info& q : queues) {
    if (due_now(q, now)) {
      roles[q.owner] = count_workers(db->oid, q.owner).pool;
    }
  }
  int starving = 0;
  bool saturated = false;
  for (auto [role, size] : roles) {
    const worker_counts counts = count_workers(db->oid, role);
    if (counts.idle > 0) {
      (void)wake_idle(db->oid, role, 1);
      continue;
    }
    if (counts.starting > 0) {
      continue;
    }
    const trouble& t = troubles[role];
    if (t.retry_at > real) {
      again = std::min(again, t.retry_at);
      continue;
    }
    if (start_one(db, role, counts)) {
      continue;
    }
    saturated = true;
    if (size == 0 || starving == 0 || size + 1 < starving) {
      starving = starving == 0 ? size + 1 : std::min(starving, size + 1);
    }
    // Even shares: one pool is asked for a worker while it has two more than this one, or any while this one has none.
    ask_to_give_way(size == 0 ? 0 : size + 1);
    if (size == 0 && !told_no_room) {
      told_no_room = true;
      pg::call([&] {
        ereport(WARNING, (errmsg("underway: all %d workers are in use; a role with work has to wait for one", settings::max_workers),
                          errhint("Raise underway.max_workers (now %d) and max_worker_processes (now %d).", settings::max_workers,
                                  max_worker_processes)));
      });
    }
    again = std::min(again, real + 5 * USECS_PER_SEC);
  }
  db->starving = starving;
  if (saturated) {
    db->saturated = true;
  }
  return again;
}

void look_after_starts(database_entry* db) {
  for (auto it = started.begin(); it != started.end();) {
    worker_slot* slot = slot_at(it->first);
    pid_t pid = 0;
    const BgwHandleStatus status = pg::call([&] { return GetBackgroundWorkerPid(it->second.handle, &pid); });
    const bool attached = slot->generation != it->second.generation || slot->state != slot_state::starting;
    if (status != BGWH_STOPPED && !attached) {
      ++it;
      continue;
    }
    trouble& t = troubles[slot->role];
    if (attached) {
      t = {};
    } else {
      // It could not connect, and has logged why.
      t.failures = std::min(t.failures + 1, 7);
      t.retry_at = GetCurrentTimestamp() + std::min<TimestampTz>(60, TimestampTz{1} << (t.failures - 1)) * USECS_PER_SEC;
      free_slot(slot);
    }
    pg::call([&] { pfree(it->second.handle); });
    it = started.erase(it);
  }
  // Given out by a coordinator that is gone, to a process that never came.
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    if (slot->state == slot_state::starting && slot->database == db->oid && started.count(n) == 0 &&
        slot->started_at < GetCurrentTimestamp() - 10 * USECS_PER_SEC) {
      slot->generation++;
      free_slot(slot);
    }
  }
}

void retire_all(Oid database) noexcept {
  for (int n = 0; n < shared->slots_size; n++) {
    if (slot_at(n)->database == database) {
      slot_at(n)->retire = true;
    }
  }
  (void)wake_idle(database, InvalidOid, shared->slots_size);
}

void terminate_all(Oid database) noexcept {
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    const int pid = slot->pid;
    if (slot->database == database && pid != 0) {
      (void)kill(pid, SIGTERM);
    }
  }
}

}  // namespace underway::pool
