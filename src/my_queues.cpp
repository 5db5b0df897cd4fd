#include "my_queues.hpp"

#include "clock.hpp"
#include "context.hpp"
#include "pg/transaction.hpp"
#include "settings.hpp"

#include <algorithm>

namespace underway {

namespace {

constexpr float8 prefetch_ms = 10;  // how much work a worker takes at a time

queue_list queues;
uint32 seen_generation = 0;
bool loaded = false;
bool some_blocked = false;  // when they were last looked at

}  // namespace

bool load_my_queues() {
  const uint32 generation = my_database->generation;
  if (loaded && generation == seen_generation) {
    return true;
  }
  pg::transaction tx(pg::transaction::kind::ours);
  if (!pg::call(
          [] { return SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(GetSessionUserId())); })) {
    return false;
  }
  queues.load(GetSessionUserId());
  if (queues.begin() == queues.end()) {
    my_slot->retire = true;  // the role was dropped or renamed, or its queues were
  }
  tx.commit();
  seen_generation = generation;
  loaded = true;
  const bool blocked = std::any_of(queues.begin(), queues.end(),
                                   [](const queue_info& q) { return q.why > obstacle::external; });
  if (blocked && !some_blocked) {
    tell_blocked();
  }
  some_blocked = blocked;
  return std::none_of(queues.begin(), queues.end(),
                      [](const queue_info& q) { return q.why == obstacle::owner_cannot_login; });
}

bool is_current() noexcept { return my_database->generation == seen_generation; }

void tell_blocked() noexcept {
  some_blocked = true;
  my_database->blocked = true;
  my_database->generation++;
  poke_coordinator(my_database);
}

void doubt_blocked() noexcept { loaded = loaded && !some_blocked; }

queue_info* my_queue(int id) noexcept { return queues.find(id); }

queue_info* choose_queue(int* priority) noexcept {
  const TimestampTz now = clock_now();
  queue_info* best = nullptr;
  TimestampTz best_due = DT_NOEND;
  *priority = priorities;
  if (!settings::enabled) {
    return nullptr;  // as of the last reload of the configuration
  }
  for (queue_info& q : queues) {
    if (q.why != obstacle::none || q.entry == nullptr || q.entry->earliest > now || at_limit(q)) {
      continue;
    }
    TimestampTz due = DT_NOEND;
    const int p = due_priority(q.entry, now, &due);
    if (p >= 0 && (p < *priority || (p == *priority && due < best_due))) {
      best = &q;
      best_due = due;
      *priority = p;
    }
  }
  return best;
}

bool at_limit(const queue_info& q) noexcept {
  return q.concurrency > 0 && tasks_held(MyDatabaseId, q.id) >= q.concurrency;
}

int tasks_wanted(const queue_info& q) noexcept {
  if (q.batch > 1) {
    return q.batch;
  }
  if (q.concurrency > 0 || q.average_ms <= 0) {
    return 1;
  }
  const int idle = count_workers(MyDatabaseId, my_slot->role).idle;
  return std::clamp(static_cast<int>(prefetch_ms / q.average_ms) / (idle + 1), 1,
                    worker_slot::max_prefetch);
}

}  // namespace underway
