#include "hand_over.hpp"

#include "claim.hpp"
#include "claim_record.hpp"
#include "clock.hpp"
#include "waitpoint.hpp"

namespace underway {

namespace {

struct offered {
  bool is;
  queue_entry* queue;
  int queue_id;
  handed_task task;
  TimestampTz due;
  bool limited;  // by a ttl of the queue:
  Interval ttl;
};
offered mine = {};
worker_slot* reserved = nullptr;

// Not where the claim would not be flushed, might not be serializable, or would be refused. A
// worker takes its own next task with the commit that ends its last one.
bool may_hand_over() noexcept {
  return mine.is && my_slot == nullptr && !IsolationUsesXactSnapshot() && !XactReadOnly &&
         synchronous_commit > SYNCHRONOUS_COMMIT_OFF && mine.due <= clock_now();
}

// What the coordinator has published: its workers may run it, as many as there are.
bool is_open(const queue_entry* q, int queue_id) noexcept {
  return q->database == MyDatabaseId && q->queue_id == queue_id && OidIsValid(q->role) &&
         q->unlimited;
}

bool is_fit(const worker_slot* slot, Oid role) noexcept {
  return slot->database == MyDatabaseId && slot->role == role && !slot->retire &&
         slot->revoked == 0;
}

// One that has died meanwhile is left to its coordinator.
void let_go_of(worker_slot* slot) noexcept {
  const Oid database = slot->database;
  slot_state was = slot_state::reserved;
  if (slot->state.compare_exchange_strong(was, slot_state::busy)) {
    pg::set_latch_of(slot->proc);
  } else {
    slot->state = slot_state::dead;
    worker_left(database);
  }
}

worker_slot* reserve_idle(Oid role) noexcept {
  for (int n = 0; n < shared->slots_size; n++) {
    worker_slot* slot = slot_at(n);
    slot_state idle = slot_state::idle;
    if (!is_fit(slot, role) || !slot->state.compare_exchange_strong(idle, slot_state::reserved)) {
      continue;
    }
    if (is_fit(slot, role)) {
      return slot;
    }
    let_go_of(slot);  // it had become another worker's
  }
  return nullptr;
}

}  // namespace

void offer(queue_entry* q, int queue_id, int priority, const row_key& key, const pg::place& at,
           const Interval* ttl) {
  mine = {true, q, queue_id, {key.id, at, priority}, key.run_at, ttl != nullptr, {}};
  if (mine.limited) {
    mine.ttl = *ttl;
  }
}

void forget_offer() noexcept { mine.is = false; }

bool hand_over() {
  if (!may_hand_over() || !is_open(mine.queue, mine.queue_id)) {
    return false;
  }
  // Before the claim: from here on nobody else gives it work.
  reserved = reserve_idle(mine.queue->role);
  if (reserved == nullptr) {
    return false;
  }
  reserved->queue_id = mine.queue_id;
  reserved->tasks = 1;
  MemoryContext before = MemoryContextSwitchTo(TopTransactionContext);
  const bool claimed = record_handed(reserved, mine.task.id) &&
                       claim_for(reserved, mine.limited ? &mine.ttl : nullptr, &mine.task);
  MemoryContextSwitchTo(before);
  if (!claimed) {
    end_hand_over(false);
    return false;
  }
  waitpoint(waitpoint_id::handed);
  return true;
}

void end_hand_over(bool committed) noexcept {
  worker_slot* slot = reserved;
  if (slot == nullptr) {
    return;
  }
  reserved = nullptr;
  if (committed) {
    SpinLockAcquire(&slot->mutex);
    slot->handed = mine.task;
    slot->overdue = false;
    slot->begun = 0;
    slot->prefetched = 1;
    slot->ids[0] = mine.task.id;
    slot->attempts[0] = 1;
    SpinLockRelease(&slot->mutex);
    slot->has_handed = true;
  } else {
    slot->tasks = 0;
  }
  let_go_of(slot);
}

bool has_been_handed(handed_task* task) noexcept {
  if (!my_slot->has_handed.exchange(false)) {
    return false;
  }
  *task = my_slot->handed;
  return true;
}

}  // namespace underway
