#include "wake.hpp"

#include "await.hpp"
#include "clock.hpp"
#include "external.hpp"
#include "slots.hpp"

namespace underway {

namespace {

struct pending_note {
  queue_entry* queue;
  int queue_id;
  int priority;
  row_key key;
  TimestampTz first_due;
  int due;  // tasks that are due now
};

constexpr int max_notes = 64;
constexpr int max_finished = 16;
constexpr int max_cancelled = 16;

struct notes {
  int pending_count;
  pending_note pending[max_notes];
  bool too_many;          // more queues than there is room for: forget all marks of the database
  bool queue_changed;
  bool handlers_changed;
  Oid extension_changed;  // in this database
  Oid settings_changed;   // of this database
  TimestampTz expiry;
  TimestampTz stale;
  bool finished;
  int finished_count;     // over max_finished: wake all
  pg_uuid_t finished_ids[max_finished];
  int cancelled_count;    // over max_cancelled: the coordinator finds them
  pg_uuid_t cancelled_ids[max_cancelled];
} mine = {};
bool any = false;

constexpr int max_claims = 16;
watched_claim claims[max_claims];
int claims_count = 0;

void end_claims() noexcept {
  for (int n = 0; n < claims_count; n++) {
    const watched_claim& c = claims[n];
    if (c.ended) {
      end_scan(c.queue, c.scan, c.priority, c.found ? &c.last : nullptr, c.exhausted, c.scanned_at, c.next_due);
      // While something was due, the coordinator had no timer for what comes after it. As it does: publish, then look.
      std::atomic_thread_fence(std::memory_order_seq_cst);
      database_entry* db = c.exhausted && OidIsValid(c.queue->role) ? find_database(MyDatabaseId, false) : nullptr;
      if (db != nullptr && c.queue->earliest < db->wakes_at) {
        poke_coordinator(db);
      }
    } else {
      drop_scan(c.queue, c.scan);
    }
  }
  claims_count = 0;
}

// Those made in this subtransaction or in one below it; all of them at the abort of the whole.
void undo_claims(SubTransactionId from) noexcept {
  int kept = 0;
  for (int n = 0; n < claims_count; n++) {
    const watched_claim& c = claims[n];
    if (c.subtransaction < from) {
      claims[kept++] = c;
      continue;
    }
    drop_scan(c.queue, c.scan);
    lower(c.queue, c.priority, c.start);
  }
  claims_count = kept;
}

// The rows stay locked until COMMIT PREPARED, which forgets all marks.
void drop_claims() noexcept {
  for (int n = 0; n < claims_count; n++) {
    drop_scan(claims[n].queue, claims[n].scan);
  }
  claims_count = 0;
}

void lower_all() noexcept {
  for (int n = 0; n < mine.pending_count; n++) {
    const pending_note& note = mine.pending[n];
    if (note.queue->database == MyDatabaseId && note.queue->queue_id == note.queue_id) {
      lower(note.queue, note.priority, note.key);
    }
  }
  if (mine.too_many) {
    reset_all_marks(MyDatabaseId);
  }
}

void tell() noexcept {
  // Made here for a copy of another database, which the launcher has not heard of: no extension was created in it.
  database_entry* db = find_database(MyDatabaseId, true);
  if (db == nullptr) {
    return;
  }
  bool poke = mine.too_many || mine.queue_changed;
  bool poke_for_worker = false;
  if (mine.queue_changed) {
    db->generation++;
    wake_idle(MyDatabaseId, InvalidOid, shared->slots_size);
  }
  if (mine.handlers_changed && db->blocked) {
    db->generation++;
    poke = true;
  }
  if (mine.expiry < db->next_expiry && mine.expiry != 0) {
    db->next_expiry = mine.expiry;
    poke = true;
  }
  if (mine.stale < db->next_stale && mine.stale != 0) {
    db->next_stale = mine.stale;
    poke = true;
  }
  for (int n = 0; n < mine.pending_count; n++) {
    const pending_note& note = mine.pending[n];
    if (!OidIsValid(note.queue->role)) {
      // Those who wait for a later time than this task's set their timers anew.
      const bool was_full = note.queue->full.exchange(false);
      wake_external(MyDatabaseId, note.queue_id,
                    note.due > 0 ? note.due : note.first_due != DT_NOEND ? shared->awaiters_size : was_full ? 1 : 0);
      if (!note.queue->quiet && note.first_due != DT_NOEND) {
        db->generation++;  // a queue that the coordinator has not read yet, or one that was dropped meanwhile
        poke = true;
      }
      continue;
    }
    if (note.due == 0) {
      poke = poke || note.first_due < db->wakes_at;
      continue;
    }
    if (wake_idle(MyDatabaseId, note.queue->role, note.due) < note.due) {
      poke_for_worker = true;
    }
  }
  if (mine.cancelled_count > 0) {
    for (int n = 0; n < Min(mine.cancelled_count, max_cancelled); n++) {
      interrupt_task(MyDatabaseId, mine.cancelled_ids[n]);
    }
    db->cancels = true;
    poke = true;
  }
  // With every worker busy and no more to be had, the next end of a task finds the work: nobody needs to hear of it.
  if (poke || (poke_for_worker && !db->saturated) || (poke_for_worker && db->coordinator_pid == 0)) {
    poke_coordinator(db);
  }
  if (mine.finished && shared->awaiting > 0) {
    wake_awaiters(MyDatabaseId, mine.finished_ids, mine.finished_count);
  }
}

void tell_of_extension() noexcept {
  if (!OidIsValid(mine.extension_changed)) {
    return;
  }
  database_entry* db = find_database(mine.extension_changed, true);
  if (db != nullptr) {
    db->recheck = true;
    db->retry_at = DT_NOBEGIN;
    db->poked = false;
    poke_coordinator(db);
  }
}

void tell_of_settings() noexcept {
  database_entry* db = OidIsValid(mine.settings_changed) ? find_database(mine.settings_changed, false) : nullptr;
  if (db != nullptr) {
    db->restart = true;
    db->poked = false;
    poke_coordinator(db);
  }
}

void forget() noexcept {
  mine.pending_count = 0;
  mine.too_many = mine.queue_changed = mine.handlers_changed = mine.finished = false;
  mine.extension_changed = mine.settings_changed = InvalidOid;
  mine.expiry = mine.stale = 0;
  mine.finished_count = 0;
  mine.cancelled_count = 0;
  any = false;
}

void at_end(XactEvent event, void*) {
  if (claims_count > 0) {
    switch (event) {
      case XACT_EVENT_COMMIT:
        lower_all();  // what this transaction did itself stands below what it may raise
        end_claims();
        break;
      case XACT_EVENT_ABORT:
        undo_claims(InvalidSubTransactionId);
        break;
      case XACT_EVENT_PREPARE:
        drop_claims();
        break;
      default:
        break;
    }
  }
  if (!any) {
    return;
  }
  switch (event) {
    case XACT_EVENT_COMMIT:
      lower_all();
      tell();
      tell_of_extension();
      tell_of_settings();
      forget();
      break;
    case XACT_EVENT_ABORT:
      lower_all();
      forget();
      break;
    case XACT_EVENT_PREPARE:
      forget();
      break;
    default:
      break;
  }
}

// Rolling back to a savepoint unlocks rows while the transaction goes on; what is noted stays noted, which is never wrong.
void at_subtransaction_end(SubXactEvent event, SubTransactionId mine_id, SubTransactionId, void*) {
  if (event != SUBXACT_EVENT_ABORT_SUB) {
    return;
  }
  undo_claims(mine_id);
  if (any) {
    lower_all();
  }
}

}  // namespace

void note_pending(int queue_id, int priority, const row_key& key, int tasks) {
  any = true;
  const bool due = key.run_at <= clock_now();
  for (int n = 0; n < mine.pending_count; n++) {
    pending_note& note = mine.pending[n];
    if (note.queue_id == queue_id && note.priority == priority) {
      if (before(key, note.key)) {
        note.key = key;
      }
      note.first_due = Min(note.first_due, key.run_at);
      note.due += due ? tasks : 0;
      return;
    }
  }
  queue_entry* entry = find_queue_entry(MyDatabaseId, queue_id, true);
  if (entry == nullptr) {
    ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED), errmsg("no room in shared memory for one more queue"),
                    errhint("Raise underway.max_queues (now %d) and restart the server.", shared->queues_size)));
  }
  if (mine.pending_count == max_notes) {
    mine.too_many = true;
    return;
  }
  mine.pending[mine.pending_count++] = {entry, queue_id, priority, key, key.run_at, due ? tasks : 0};
}

void note_expiry(TimestampTz at) {
  any = true;
  mine.expiry = mine.expiry == 0 ? at : Min(mine.expiry, at);
}

void note_stale(TimestampTz at) {
  any = true;
  mine.stale = mine.stale == 0 ? at : Min(mine.stale, at);
}

void note_queue_changed(int queue_id) {
  any = mine.queue_changed = true;
  note_place_free(queue_id);
}

// A note of a row that is never due: nothing is lowered, and the queue is looked at.
void note_place_free(int queue_id) { note_pending(queue_id, 0, highest_key, 0); }
void note_handlers_changed() { any = mine.handlers_changed = true; }

void note_extension_changed(Oid database) {
  any = true;
  mine.extension_changed = database;
}

void note_settings_changed(Oid database) {
  any = true;
  mine.settings_changed = database;
}

void note_cancelled(const pg_uuid_t& id) {
  any = true;
  if (mine.cancelled_count < max_cancelled) {
    mine.cancelled_ids[mine.cancelled_count] = id;
  }
  mine.cancelled_count++;
}

void note_finished(const pg_uuid_t* ids, int n) {
  any = mine.finished = true;
  for (int i = 0; i < n; i++) {
    if (mine.finished_count < max_finished) {
      mine.finished_ids[mine.finished_count] = ids[i];
    }
    mine.finished_count++;
  }
}

watched_claim* begin_claim(queue_entry* q, int priority) {
  if (claims_count == max_claims) {
    return nullptr;
  }
  watched_claim* c = &claims[claims_count];
  *c = {};
  c->queue = q;
  c->queue_id = q->queue_id;
  c->priority = priority;
  c->subtransaction = GetCurrentSubTransactionId();
  c->scan = begin_scan(q, priority, &c->start);
  claims_count++;
  return c;
}

void after_prepared_transaction(Oid database) noexcept {
  reset_all_marks(database);
  database_entry* db = find_database(database, false);
  if (db != nullptr) {
    db->generation++;
    wake_idle(database, InvalidOid, shared->slots_size);
    db->poked = false;
    poke_coordinator(db);
    wake_awaiters(database, nullptr, 0);
  }
}

void install_transaction_callbacks() {
  RegisterXactCallback(at_end, nullptr);
  RegisterSubXactCallback(at_subtransaction_end, nullptr);
}

}  // namespace underway
