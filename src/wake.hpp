// What a transaction has done that others must hear of when it ends: rows made pending or locked,
// queues changed, tasks finished. Runs in: any backend and our own processes. Error discipline:
// note_* are called inside pg::call and may raise; so may the hand-over before the commit
// (hand_over.hpp); what runs at the end of the transaction is noexcept and allocates nothing, since
// an error there would be a PANIC (xact.c). Invariant: after the commit is visible, marks are
// lowered first; sleepers are woken when the locks are released too, and what the transaction
// changed in the catalogs was made known (xact.c, CommitTransaction). So whoever is woken waits for
// nothing and sees all.
#pragma once

#include "marks.hpp"
#include "pg/relation.hpp"

namespace underway {

// tasks: how many become pending, this one first.
void note_pending(int queue_id, int priority, const row_key& key, int tasks);
// One, that was enqueued and stands there: if it stays the only one, it may be handed over.
void note_enqueued(int queue_id, int priority, const row_key& key, const pg::place& at,
                   const Interval* ttl);
// A pending row, before this transaction locks it: it may come free at every end of it, and of the
// present subtransaction.
void note_locked(int queue_id, int priority, const row_key& key);
void note_expiry(TimestampTz at);
void note_stale(TimestampTz at);  // a lease was given that is stale then, unless its holder beats
void note_queue_changed(int queue_id);
void note_queue_created(int queue_id);
void note_queues_loaded();
void note_place_free(int queue_id);  // a lease has ended
// A task in progress is to be cancelled: its worker is interrupted at commit.
void note_cancelled(const pg_uuid_t& id);
// A client has finished a child of a map: the coordinator looks whether it was the last.
void note_look();
void note_control();                 // something is asked of a run
bool has_noted_control() noexcept;   // by this transaction; perhaps in what was rolled back
void note_deadline(TimestampTz at);  // a run ends then, if it is unfinished
void note_finished(const pg_uuid_t& id) noexcept;

// COMMIT PREPARED and ROLLBACK PREPARED fire no callback of the transaction that they end, and the
// clock can be moved: all marks are forgotten, and the coordinator looks at everything.
void everything_may_have_changed(Oid database) noexcept;

void install_transaction_callbacks();

}  // namespace underway
