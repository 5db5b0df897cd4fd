#include "wake.hpp"

#include "await.hpp"
#include "changes.hpp"
#include "clock.hpp"
#include "external.hpp"
#include "hand_over.hpp"
#include "sleepers.hpp"
#include "slots.hpp"
#include "waitpoint.hpp"
#include "watched_claims.hpp"

namespace underway {

namespace {

struct pending_note {
  queue_entry* queue;
  int queue_id;
  int priority;
  row_key key;
  TimestampTz first_due;
  int due;  // tasks that become pending and are due now
  // Rows that are only locked: every end of a lock frees them. The first and the last
  // subtransaction that took one; 0: none.
  SubTransactionId locked_first;
  SubTransactionId locked_last;
};

constexpr int max_notes = 64;
constexpr int max_cancelled = 16;

struct notes {
  int made;  // notes of rows, whatever became of them
  int pending_count;
  pending_note pending[max_notes];
  bool too_many;  // more queues than there is room for: forget all marks of the database
  bool queue_changed;
  bool made_queues;  // their entries are marked
  bool look;
  bool control;
  TimestampTz expiry;
  TimestampTz stale;
  TimestampTz deadline;
  ended_tasks ended;
  int cancelled_count;  // over max_cancelled: the coordinator finds them
  pg_uuid_t cancelled_ids[max_cancelled];
} mine = {};
bool any = false;
bool committed = false;  // and not told yet

void lower_all() noexcept {
  for (int n = 0; n < mine.pending_count; n++) {
    const pending_note& note = mine.pending[n];
    lower_row(note.queue, note.queue_id, note.priority, note.key);
  }
  if (mine.too_many) {
    reset_all_marks(MyDatabaseId);
  }
}

// An abort: what this subtransaction and those below it had locked is free; what they had inserted
// never was. At the abort of the whole, `from` is below every subtransaction.
void free_locked(SubTransactionId from) noexcept {
  database_entry* db = find_database(MyDatabaseId, false);
  need n = need::no;
  for (int i = 0; i < mine.pending_count; i++) {
    pending_note& note = mine.pending[i];
    if (note.locked_last == InvalidSubTransactionId || note.locked_last < from) {
      continue;
    }
    lower_row(note.queue, note.queue_id, note.priority, note.key);
    if (db != nullptr) {
      const int due = note.first_due <= clock_now();
      n = more(n, wake_for(db, note.queue, note.queue_id, due, note.first_due));
    }
    if (note.locked_first < from) {
      note.locked_last = from - 1;
    } else {
      note.locked_first = note.locked_last = InvalidSubTransactionId;
    }
  }
  if (mine.too_many) {
    reset_all_marks(MyDatabaseId);
    wake_external(MyDatabaseId, 0, shared->awaiters_size);
    n = need::yes;
  }
  if (db != nullptr) {
    poke_if(db, n);
  }
}

void set_earlier(std::atomic<TimestampTz>* to, TimestampTz at) noexcept {
  TimestampTz known = *to;
  while (at < known && !to->compare_exchange_weak(known, at)) {
  }
}

void tell() noexcept {
  if (mine.ended.any() && shared->awaiting > 0) {
    wake_awaiters(MyDatabaseId, &mine.ended);
  }
  // Made here for a copy of another database, which the launcher has not heard of: no extension was
  // created in it.
  database_entry* db = find_database(MyDatabaseId, mine.pending_count > 0 || mine.queue_changed);
  if (db == nullptr) {
    return;
  }
  need n = mine.too_many || mine.queue_changed ? need::yes : need::no;
  if (mine.too_many) {
    wake_external(MyDatabaseId, 0, shared->awaiters_size);
  }
  if (mine.queue_changed) {
    db->generation++;
    wake_idle(MyDatabaseId, InvalidOid, shared->slots_size);
  }
  if (mine.expiry != 0 && mine.expiry < db->next_expiry) {
    set_earlier(&db->next_expiry, mine.expiry);
    n = need::yes;
  }
  if (mine.stale != 0 && mine.stale < db->next_stale) {
    set_earlier(&db->next_stale, mine.stale);
    n = need::yes;
  }
  if (mine.deadline != 0 && mine.deadline < db->next_deadline) {
    set_earlier(&db->next_deadline, mine.deadline);
    n = need::yes;
  }
  for (int i = 0; i < mine.pending_count; i++) {
    const pending_note& note = mine.pending[i];
    const bool is_due = note.first_due <= clock_now();  // by now; and what was locked is free
    const int due =
        note.due + (is_due && (note.due == 0 || note.locked_last != InvalidSubTransactionId));
    n = more(n, wake_for(db, note.queue, note.queue_id, due, note.first_due));
  }
  if (mine.look) {
    db->looks = true;
    n = need::yes;
  }
  if (mine.control) {
    db->asked = true;
    db->controls = true;
    n = need::yes;
  }
  if (mine.cancelled_count > 0) {
    for (int i = 0; i < Min(mine.cancelled_count, max_cancelled); i++) {
      interrupt_task(MyDatabaseId, mine.cancelled_ids[i]);
    }
    db->cancels = true;
    n = need::yes;
  }
  poke_if(db, n);
}

void forget() noexcept {
  withdraw_offer(InvalidSubTransactionId);
  mine.made = mine.pending_count = 0;
  mine.too_many = mine.queue_changed = mine.made_queues = false;
  mine.look = mine.control = false;
  mine.expiry = mine.stale = mine.deadline = 0;
  mine.ended.clear();
  mine.cancelled_count = 0;
  any = committed = false;
}

void at_end(XactEvent event, void*) {
  if (event == XACT_EVENT_COMMIT) {
    lower_all();  // what this transaction did itself stands below what a claim of its own may raise
  }
  end_watched_claims(event);
  if (!any) {
    return;
  }
  switch (event) {
    case XACT_EVENT_PRE_COMMIT:
      if (mine.made == 1 && hand_over()) {
        mine.pending_count = 0;
      }
      break;
    case XACT_EVENT_COMMIT:
      if (mine.made_queues) {
        keep_made();
      }
      committed = true;
      break;
    case XACT_EVENT_ABORT:
      end_hand_over(false);
      free_locked(InvalidSubTransactionId);
      if (mine.made_queues) {
        forget_made(InvalidSubTransactionId);
      }
      forget();
      break;
    case XACT_EVENT_PREPARE:
      if (mine.made_queues) {
        keep_made();
      }
      forget();
      break;
    default:
      break;
  }
}

void after_locks(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void*) {
  if (committed && phase == RESOURCE_RELEASE_AFTER_LOCKS && is_commit && is_top_level &&
      CurrentResourceOwner == TopTransactionResourceOwner) {
    end_hand_over(true);
    tell();
    forget();
  }
}

// Rolling back to a savepoint unlocks rows while the transaction goes on; what it had inserted
// stays noted, which is never wrong.
void at_subtransaction_end(SubXactEvent event, SubTransactionId mine_id, SubTransactionId, void*) {
  if (event != SUBXACT_EVENT_ABORT_SUB) {
    return;
  }
  undo_watched_claims(mine_id);
  if (any) {
    withdraw_offer(mine_id);
    free_locked(mine_id);
    if (mine.made_queues) {
      forget_made(mine_id);
    }
  }
}

}  // namespace

namespace {

// Null: no room for one more, and all marks will be forgotten; or no place for the queue, and
// nobody claims from it then. needs_place: that is an error.
pending_note* note_of(int queue_id, int priority, const row_key& key, bool needs_place) {
  any = true;
  mine.made++;
  for (int n = 0; n < mine.pending_count; n++) {
    pending_note& note = mine.pending[n];
    if (note.queue_id == queue_id && note.priority == priority) {
      if (before(key, note.key)) {
        note.key = key;
      }
      note.first_due = Min(note.first_due, key.run_at);
      return &note;
    }
  }
  queue_entry* entry = find_queue_entry(MyDatabaseId, queue_id, true);
  if (entry == nullptr && !needs_place) {
    return nullptr;
  }
  if (entry == nullptr) {
    ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                    errmsg("no room in shared memory for one more queue"),
                    errhint("Raise underway.max_queues (now %d) and restart the server.",
                            shared->queues_size)));
  }
  if (mine.pending_count == max_notes) {
    mine.too_many = true;
    return nullptr;
  }
  pending_note* note = &mine.pending[mine.pending_count++];
  *note = {entry,
           queue_id,
           priority,
           key,
           key.run_at,
           0,
           InvalidSubTransactionId,
           InvalidSubTransactionId};
  return note;
}

}  // namespace

void note_pending(int queue_id, int priority, const row_key& key, int tasks) {
  if (is_armed(waitpoint_id::unheard)) {
    return;
  }
  pending_note* note = note_of(queue_id, priority, key, true);
  if (note != nullptr && key.run_at <= clock_now()) {
    note->due += tasks;
  }
}

void note_enqueued(int queue_id, int priority, const row_key& key, const pg::place& at,
                   const Interval* ttl) {
  note_pending(queue_id, priority, key, 1);
  if (mine.made == 1) {
    offer(mine.pending[0].queue, queue_id, priority, key, at, ttl);
  }
}

void note_locked(int queue_id, int priority, const row_key& key) {
  pending_note* note = note_of(queue_id, priority, key, false);
  if (note != nullptr) {
    const SubTransactionId now = GetCurrentSubTransactionId();
    note->locked_first =
        note->locked_first == InvalidSubTransactionId ? now : Min(note->locked_first, now);
    note->locked_last = Max(note->locked_last, now);
  }
}

void note_expiry(TimestampTz at) {
  any = true;
  mine.expiry = mine.expiry == 0 ? at : Min(mine.expiry, at);
}

void note_stale(TimestampTz at) {
  any = true;
  mine.stale = mine.stale == 0 ? at : Min(mine.stale, at);
}

void note_deadline(TimestampTz at) {
  any = true;
  mine.deadline = mine.deadline == 0 ? at : Min(mine.deadline, at);
}

void note_queue_changed(int queue_id) {
  any = mine.queue_changed = true;
  note_place_free(queue_id);
}

void note_queue_created(int queue_id) {
  any = mine.queue_changed = true;
  (void)note_of(queue_id, 0, highest_key, true);
  mark_made(MyDatabaseId, queue_id);
  mine.made_queues = true;
}

void note_queues_loaded() { any = mine.queue_changed = true; }

// A note of a row that is never due: nothing is lowered, and the queue is looked at.
void note_place_free(int queue_id) { (void)note_of(queue_id, 0, highest_key, false); }

void note_look() { any = mine.look = true; }

void note_control() { any = mine.control = true; }

bool has_noted_control() noexcept { return mine.control; }

void note_cancelled(const pg_uuid_t& id) {
  any = true;
  if (mine.cancelled_count < max_cancelled) {
    mine.cancelled_ids[mine.cancelled_count] = id;
  }
  mine.cancelled_count++;
}

void note_finished(const pg_uuid_t& id) noexcept {
  any = true;
  mine.ended.add(id);
}

void everything_may_have_changed(Oid database) noexcept {
  reset_all_marks(database);
  tell_of_prepared_changes(database);
  wake_awaiters(database, nullptr);
  wake_external(database, 0, shared->awaiters_size);
  database_entry* db = find_database(database, false);
  if (db != nullptr) {
    set_earlier(&db->next_expiry, clock_now());
    set_earlier(&db->next_stale, clock_now());
    set_earlier(&db->next_deadline, clock_now());
    db->generation++;
    db->cancels = true;
    db->looks = true;
    db->asked = true;
    db->controls = true;
    // It surveys all queues, each in one look, and then wakes the workers that there is work for.
    poke_coordinator(db);
  }
}

void install_transaction_callbacks() {
  RegisterXactCallback(at_end, nullptr);
  RegisterSubXactCallback(at_subtransaction_end, nullptr);
  RegisterResourceReleaseCallback(after_locks, nullptr);
}

}  // namespace underway
