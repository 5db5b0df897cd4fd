#include "hand_over.hpp"

#include "claim.hpp"
#include "claim_record.hpp"
#include "clock.hpp"
#include "waitpoint.hpp"

namespace underway {

namespace {

struct offered {
  bool is;
  SubTransactionId made_in;
  queue_entry* queue;
  int queue_id;
  handed_task task;
  TimestampTz due;
  bool lapses;  // by a ttl of the queue:
  Interval ttl;
};
offered mine = {};

worker_slot* reserved = nullptr;
bool claimed = false;  // for it

// Not where the claim would not be flushed, might not be serializable, or would be refused. A
// worker takes its own next task with the commit that ends its last one.
bool may_hand_over() noexcept {
  return mine.is && my_slot == nullptr && !IsolationUsesXactSnapshot() && !XactReadOnly &&
         synchronous_commit > SYNCHRONOUS_COMMIT_OFF && mine.due <= clock_now();
}

// Its workers may run it, as many as there are, by what the coordinator has published; and nothing
// of it comes first.
bool is_open(const queue_entry* q, int queue_id) noexcept {
  return q->database == MyDatabaseId && q->queue_id == queue_id && q->unlimited &&
         q->earliest > clock_now();
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

// So that nothing is looked at while all are busy.
bool has_idle(Oid role) noexcept {
  return OidIsValid(role) && count_workers(MyDatabaseId, role).idle > 0;
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

// Of what follows nothing is undone before the end of the transaction; so the worker stays reserved
// until then, whatever comes of it.
const worker_slot* reserve() {
  reserved = reserve_idle(mine.queue->role);
  if (reserved == nullptr) {
    return nullptr;
  }
  reserved->queue_id = mine.queue_id;
  reserved->tasks = 1;
  return record_handed(reserved, mine.task.id) ? reserved : nullptr;
}

}  // namespace

void offer(queue_entry* q, int queue_id, int priority, const row_key& key, const pg::place& at,
           const Interval* ttl) {
  mine = {true,
          GetCurrentSubTransactionId(),
          q,
          queue_id,
          {key.id, at, priority},
          key.run_at,
          ttl != nullptr,
          {}};
  if (mine.lapses) {
    mine.ttl = *ttl;
  }
}

void withdraw_offer(SubTransactionId from) noexcept { mine.is = mine.is && mine.made_in < from; }

bool hand_over() {
  // The last: this transaction may have dropped the extension.
  if (!may_hand_over() || !is_open(mine.queue, mine.queue_id) || !has_idle(mine.queue->role) ||
      !OidIsValid(get_namespace_oid("underway_internal", true))) {
    return false;
  }
  MemoryContext before = MemoryContextSwitchTo(TopTransactionContext);
  claimed = claim_own(&mine.task, mine.lapses ? &mine.ttl : nullptr, reserve);
  MemoryContextSwitchTo(before);
  if (claimed) {
    waitpoint(waitpoint_id::handed);
  }
  return claimed;
}

void end_hand_over(bool committed) noexcept {
  worker_slot* slot = reserved;
  if (slot == nullptr) {
    return;
  }
  if (committed && claimed) {
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
  reserved = nullptr;
  claimed = false;
  let_go_of(slot);
}

bool receive_handed(handed_task* task) noexcept {
  if (!my_slot->has_handed.exchange(false)) {
    return false;
  }
  *task = my_slot->handed;
  return true;
}

bool is_promised() noexcept {
  return my_slot->state == slot_state::reserved || my_slot->has_handed;
}

}  // namespace underway
