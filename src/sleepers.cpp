#include "sleepers.hpp"

#include "external.hpp"
#include "slots.hpp"

namespace underway {

void lower_row(queue_entry* q, int queue_id, int priority, const row_key& key) noexcept {
  if (!lower(q, queue_id, priority, key)) {
    q = find_queue_entry(MyDatabaseId, queue_id, false);
    if (q != nullptr) {
      (void)lower(q, queue_id, priority, key);
    }
  }
}

need tell_of_timer(database_entry* db, TimestampTz at) noexcept {
  return at < db->wakes_at ? need::yes : need::no;
}

need wake_for(database_entry* db, queue_entry* q, int queue_id, int tasks,
              TimestampTz first_due) noexcept {
  const Oid role = q->role;
  if (q->database != MyDatabaseId || q->queue_id != queue_id) {
    db->generation++;  // given up, and perhaps made anew: the coordinator surveys it
    return need::yes;
  }
  if (OidIsValid(role)) {
    if (tasks == 0) {
      return tell_of_timer(db, first_due);
    }
    if (wake_idle(MyDatabaseId, role, tasks) >= tasks) {
      return need::no;
    }
    return count_workers(MyDatabaseId, role).pool == 0 ? need::yes : need::worker;
  }
  // Those who wait for a later time than this task's set their timers anew. A place that is free
  // has no time at all.
  const bool was_full = q->full.exchange(false);
  const bool place_only = first_due == DT_NOEND;
  if (tasks == 0 && !place_only) {
    wake_later_than(MyDatabaseId, queue_id, first_due);
  }
  wake_external(MyDatabaseId, queue_id, tasks > 0 ? tasks : was_full ? 1 : 0);
  if (q->quiet || place_only) {
    return need::no;
  }
  db->generation++;  // a queue that the coordinator has not read yet, or one that was dropped
                     // meanwhile
  return need::yes;
}

void poke_if(database_entry* db, need n) noexcept {
  if (n == need::yes || (n == need::worker && (!db->saturated || db->coordinator_pid == 0))) {
    poke_coordinator(db);
  }
}

}  // namespace underway
