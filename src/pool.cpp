#include "pool.hpp"

#include "clock.hpp"
#include "settings.hpp"
#include "worker.hpp"

#include <signal.h>

#include <algorithm>
#include <map>
#include <vector>

namespace underway::pool {

namespace {

struct attempt {
  BackgroundWorkerHandle* handle;
  uint32 generation;
  Oid role;
};

// By slot number, and by role: of this process alone. Never destroyed.
auto& started = *new std::map<int, attempt>;
struct trouble {
  int failures = 0;
  TimestampTz retry_at = DT_NOBEGIN;
};
auto& troubles = *new std::map<Oid, trouble>;
auto& waiting_since = *new std::map<Oid, TimestampTz>;  // roles that have work and got no worker

constexpr TimestampTz turn = USECS_PER_SEC;

bool due_now(const queue_info& q, TimestampTz now) noexcept {
  return q.why == obstacle::none && q.entry != nullptr && q.entry->earliest <= now &&
         (q.concurrency == 0 || tasks_held(MyDatabaseId, q.id) < q.concurrency);
}

void retire(worker_slot* slot, TimestampTz now) noexcept {
  slot->retire_at = now;
  slot->retire = true;
  (void)wake_idle(slot->database, slot->role, shared->slots_size);
}

// A worker that has nothing to do leaves, wherever it is (database InvalidOid; else there); without
// one the worker that has been there longest, of the largest pool with more than `than` workers, at
// the next end of a task. One at a time is asked, and of those that have work none before its turn
// is over. to_come: since when the place of one that was asked is waited for, since that one works
// or the postmaster has not seen it go: for a turn, no other that has work is asked; null: the
// place is nobody's. Returns when to ask again.
TimestampTz ask_to_give_way(int than, Oid database, std::atomic<TimestampTz>* to_come) noexcept {
  const TimestampTz now = GetCurrentTimestamp();
  worker_slot* best = nullptr;
  int best_size = than;
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    const slot_state state = slot->state;
    if (state == slot_state::free || state == slot_state::dead || state == slot_state::abandoned ||
        (OidIsValid(database) && slot->database != database)) {
      continue;
    }
    if (slot->retire) {
      if (slot->retire_at > now - turn) {
        return now + turn;
      }
      continue;  // in a long task; it is not waited for
    }
    if (state == slot_state::idle) {
      best = slot;
      break;
    }
    const worker_counts counts = count_workers(slot->database, slot->role);
    const int size = counts.pool - counts.leaving;
    if (size > best_size ||
        (size == best_size && best != nullptr && slot->started_at < best->started_at)) {
      best = slot;
      best_size = size;
    }
  }
  if (best == nullptr) {
    return now + 5 * turn;
  }
  if (best->state != slot_state::idle) {
    const TimestampTz started_at = best->started_at;
    const TimestampTz its_turn =
        turn + (to_come == nullptr ? started_at : std::max<TimestampTz>(started_at, *to_come));
    if (its_turn > now) {
      return its_turn;
    }
  }
  if (to_come != nullptr) {
    *to_come = now;
  }
  retire(best, now);
  return now + turn;
}

// A database whose pool of fewer workers, or of as many, has waited longer than this one; told,
// since the place is free for it.
bool others_come_first(database_entry* mine, int size, TimestampTz since) noexcept {
  for (int n = 0; n < shared->databases_size; n++) {
    database_entry* db = shared->databases() + n;
    const int its_size = db->starving - 1;
    if (db != mine && db->oid != InvalidOid && db->coordinator_pid != 0 && its_size >= 0 &&
        (its_size < size || (its_size == size && db->starving_since < since))) {
      poke_coordinator(db);
      return true;
    }
  }
  return false;
}

enum class outcome { started, too_many_here, too_many, after_others, no_slot };

outcome start_one(database_entry* db, Oid role, const worker_counts& counts, TimestampTz since) {
  if (settings::max_workers_per_database > 0 &&
      counts.database >= settings::max_workers_per_database) {
    return outcome::too_many_here;
  }
  if (counts.all >= settings::max_workers) {
    return outcome::too_many;
  }
  if (others_come_first(db, counts.pool, since) ||
      (shared->coordinator_waits && counts.database > 0)) {
    return outcome::after_others;
  }
  worker_slot* slot = take_slot(db->oid, role);
  if (slot == nullptr) {
    return outcome::no_slot;
  }
  attempt a = {nullptr, slot->generation, role};
  if (!pg::call([&] {
        MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
        const bool registered = start_worker(slot, &a.handle);
        MemoryContextSwitchTo(old);
        return registered;
      })) {
    slot->state = slot_state::free;
    return outcome::no_slot;
  }
  started[number_of(slot)] = a;
  shared->place_to_come = db->place_to_come = DT_NOBEGIN;
  return outcome::started;
}

// Once for each start of the server: the shortage may come and go with every task.
void tell(outcome why, int size, int workers) {
  if (why == outcome::no_slot && !shared->told_no_slot.exchange(true)) {
    pg::call([workers] {
      ereport(WARNING,
              (errmsg("underway: no background worker slot is free; work goes on with %d workers",
                      workers),
               errhint("Raise max_worker_processes (now %d) and restart the server, or lower "
                       "underway.max_workers (now %d).",
                       max_worker_processes, settings::max_workers)));
    });
  }
  if (why == outcome::too_many && size == 0 && !shared->told_no_room.exchange(true)) {
    pg::call([workers] {
      ereport(WARNING,
              (errmsg("underway: all %d workers are in use; a role with work has to wait for one",
                      workers),
               errhint("Raise underway.max_workers (now %d) and max_worker_processes (now %d).",
                       settings::max_workers, max_worker_processes)));
    });
  }
}

// With neither a worker nor a slot for one anywhere, coordinators have taken all: this one leaves
// if another waits longer, else one that does not wait for a worker does.
void make_room_for_worker(database_entry* mine) noexcept {
  for (int n = 0; n < shared->databases_size; n++) {
    database_entry* db = shared->databases() + n;
    if (db == mine || db->oid == InvalidOid || db->coordinator_pid == 0) {
      continue;
    }
    const bool first =
        db->starving > 0 && (db->starving_since < mine->starving_since ||
                             (db->starving_since == mine->starving_since && db->oid < mine->oid));
    if (first) {
      mine->yield = true;
    } else if (db->starving == 0) {
      db->yield = true;
      poke_coordinator(db);
    }
  }
}

struct need {
  Oid role;
  worker_counts counts;
  TimestampTz since;
};

}  // namespace

void make_room_for_coordinator() noexcept {
  const TimestampTz now = GetCurrentTimestamp();
  database_entry* largest = nullptr;
  database_entry* oldest = nullptr;
  int most = 1;
  for (int n = 0; n < shared->databases_size; n++) {
    database_entry* db = shared->databases() + n;
    if (db->oid == InvalidOid || db->coordinator_pid == 0) {
      continue;
    }
    if (db->yield) {
      return;
    }
    const int workers = count_workers(db->oid, InvalidOid).database;
    if (workers > most) {
      largest = db;
      most = workers;
    }
    // One without workers first, since it has little to do.
    const bool over = workers == 0 ? db->starving == 0 : db->coordinator_since < now - turn;
    if (over && (oldest == nullptr || db->coordinator_since < oldest->coordinator_since)) {
      oldest = db;
    }
  }
  if (largest != nullptr) {
    (void)ask_to_give_way(0, largest->oid, &shared->place_to_come);
  } else if (oldest != nullptr) {
    oldest->yield = true;
    poke_coordinator(oldest);
  }
}

TimestampTz fit(database_entry* db, queue_list& queues) {
  const TimestampTz now = clock_now();
  const TimestampTz real = GetCurrentTimestamp();
  TimestampTz again = DT_NOEND;
  db->saturated = false;      // until we know: who commits work from here on tells us
  std::map<Oid, need> roles;  // that have due work
  for (const queue_info& q : queues) {
    if (due_now(q, now) && roles.count(q.owner) == 0) {
      const auto waits = waiting_since.find(q.owner);
      roles[q.owner] = {q.owner, count_workers(db->oid, q.owner),
                        waits == waiting_since.end() ? real : waits->second};
    }
  }
  std::vector<need> needs;
  for (const auto& [role, n] : roles) {
    if (n.counts.idle > 0) {
      (void)wake_idle(db->oid, role, 1);
    } else if (n.counts.starting == 0) {
      const auto t = troubles.find(role);
      if (t != troubles.end() && t->second.retry_at > real) {
        again = std::min(again, t->second.retry_at);
      } else {
        needs.push_back(n);
      }
    }
  }
  std::sort(needs.begin(), needs.end(), [](const need& a, const need& b) {
    return a.counts.pool != b.counts.pool ? a.counts.pool < b.counts.pool : a.since < b.since;
  });
  waiting_since.clear();
  int starving = 0;
  TimestampTz starving_since = DT_NOEND;
  bool saturated = false;
  bool no_worker_at_all = false;
  for (const need& n : needs) {
    const int size = n.counts.pool;
    const int than = size == 0 ? 0 : size + 1;
    const worker_counts present = count_workers(db->oid, n.role);  // with those just started
    const outcome result = start_one(db, n.role, present, n.since);
    if (result == outcome::started) {
      continue;
    }
    waiting_since[n.role] = n.since;
    saturated = true;
    if (result == outcome::too_many_here) {
      again = std::min(again, ask_to_give_way(than, db->oid, &db->place_to_come));
      continue;
    }
    if (starving == 0) {
      starving = size + 1;
      starving_since = n.since;
    }
    // Not at once, nor while there are fewer workers than there will be.
    const TimestampTz certain = std::max<TimestampTz>(n.since, shared->place_to_come) + turn;
    const TimestampTz ask_again = ask_to_give_way(than, InvalidOid, &shared->place_to_come);
    // The postmaster tells of a free slot only whoever started the worker that had it.
    again =
        std::min(again, size == 0 && result != outcome::too_many ? real + turn / 10 : ask_again);
    no_worker_at_all =
        no_worker_at_all ||
        ((result == outcome::no_slot || result == outcome::after_others) && present.all == 0);
    if (certain <= real) {
      tell(result, size, present.all);
    } else {
      again = std::min(again, certain);
    }
  }
  db->starving_since = starving_since;
  db->starving = starving;
  if (saturated) {
    db->saturated = true;
  }
  if (no_worker_at_all) {
    make_room_for_worker(db);
  }
  // After max_workers was lowered.
  const worker_counts counts = count_workers(db->oid, InvalidOid);
  if (counts.all > settings::max_workers) {
    again = std::min(again, ask_to_give_way(0, InvalidOid, nullptr));
  } else if (settings::max_workers_per_database > 0 &&
             counts.database > settings::max_workers_per_database) {
    again = std::min(again, ask_to_give_way(0, db->oid, nullptr));
  }
  return again;
}

void look_after_starts(database_entry* db) {
  for (auto it = started.begin(); it != started.end();) {
    worker_slot* slot = slot_at(it->first);
    const attempt a = it->second;
    pid_t pid = 0;
    const BgwHandleStatus status = pg::call([&] { return GetBackgroundWorkerPid(a.handle, &pid); });
    const bool ours = slot->generation == a.generation;
    const bool waits = ours && (slot->state == slot_state::starting || slot->connecting);
    if (status != BGWH_STOPPED && waits) {
      ++it;
      continue;
    }
    trouble& t = troubles[a.role];
    slot_state starting = slot_state::starting;
    const bool never_came = ours && status == BGWH_STOPPED &&
                            slot->state.compare_exchange_strong(starting, slot_state::free);
    if (never_came || slot->failed == a.generation) {
      // It has logged why.
      t.failures = std::min(t.failures + 1, 7);
      t.retry_at = GetCurrentTimestamp() +
                   std::min<TimestampTz>(60, TimestampTz{1} << (t.failures - 1)) * USECS_PER_SEC;
    } else if (ours) {
      t = {};
    }
    pg::call([&] { pfree(a.handle); });
    it = started.erase(it);
  }
  // Given out by a coordinator that is gone, to a process that never came.
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    slot_state starting = slot_state::starting;
    if (slot->database == db->oid && started.count(n) == 0 &&
        slot->started_at < GetCurrentTimestamp() - 10 * USECS_PER_SEC) {
      (void)slot->state.compare_exchange_strong(starting, slot_state::free);
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
  retire_all(database);  // who has nothing in hand leaves by himself
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    const int pid = slot->pid;
    if (slot->database == database && pid != 0 && slot->tasks > 0) {
      (void)kill(pid, SIGTERM);
    }
  }
}

}  // namespace underway::pool
