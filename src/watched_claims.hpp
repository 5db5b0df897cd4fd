// The claims that a transaction makes, until it ends: what they may do to the low-water marks then.
// Runs in: workers, and clients that dequeue. Error discipline: begin_claim() inside pg::call; what
// runs at the end of the transaction is noexcept and allocates nothing. Invariant: a scan that was
// registered ends with the transaction, however it ends.
#pragma once

#include "marks.hpp"

namespace underway {

// A claim that this transaction makes. At its commit the scan ends and may raise the mark; at its
// abort, or that of the subtransaction that it was made in, the mark drops to where it started.
struct watched_claim {
  queue_entry* queue;
  int queue_id;
  int priority;
  struct scan scan;
  SubTransactionId subtransaction;
  bool ended;  // what follows is known
  bool found;
  row_key last;
  bool exhausted;
  TimestampTz scanned_at;
  TimestampTz next_due;
};
// Registers the scan; to be called before the claim's snapshot. Null: too many claims in one
// transaction; then nothing is raised, and its abort forgets all marks of the database.
watched_claim* begin_claim(queue_entry* q, int queue_id, int priority);

// For the callbacks of wake.cpp. What the transaction has noted itself has lowered the marks
// before.
void end_watched_claims(XactEvent event) noexcept;
// Those made in this subtransaction or in one below it; all of them at the abort of the whole. What
// they took can be taken again.
void undo_watched_claims(SubTransactionId from) noexcept;

}  // namespace underway
