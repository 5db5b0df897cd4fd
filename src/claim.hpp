// Claim: pending -> in_progress, row by row in the order of due time and id, skipping what others
// have locked. Runs in: workers, and clients that dequeue; as the extension's owner. Error
// discipline: throws pg::error. Invariant: the caller has registered an active scan of this queue
// and priority before, so that the low-water mark cannot pass a row that becomes pending meanwhile;
// and it commits before the work starts.
#pragma once

#include "context.hpp"
#include "marks.hpp"

namespace underway {

struct claim_source {
  queue_entry* entry;
  int queue_id;
  const Interval* ttl;
  int max_attempts;
  const char* worker;       // a name for people
  const worker_slot* slot;  // null: an external worker; its tasks get leases
  bool with_others;         // the claimer has tasks already, so that a suspect must wait
};

struct claimed_rows {
  int rows = 0;   // taken
  int count = 0;  // to be run
  int expired = 0;
  bool more = false;                // may be due; else
  TimestampTz next_due = DT_NOEND;  // when the next one will be
  row_key last = {};
  Datum* expired_ids = nullptr;
};

// The first row from `start` on and before `end` that waits to be claimed, now or later, by what is
// committed now, whatever the isolation level. As a claim, it passes by what somebody has locked,
// who tells at his end. Looks at so many entries of the index at most. False: none was found.
bool first_pending(int queue_id, int priority, const row_key& start, const row_key& end, int most,
                   row_key* found);

// From `start` on, up to max_tasks, of those that had no more than most_crashes. Tasks and what
// they point at are allocated in `memory`.
claimed_rows claim_rows(const claim_source& from, int priority, const row_key& start, int max_tasks,
                        int most_crashes, MemoryContext memory, claimed_task* tasks);

// A pending task that this transaction has made itself, looked at where it was inserted; where it
// stands then. False: it has been changed since, has lapsed by its own ttl or its queue's (or
// null), or is gone; or reserve(), which is asked after that, knows no worker for it. Server code,
// for who has no frame with a destructor.
bool claim_own(handed_task* task, const Interval* ttl, const worker_slot* (*reserve)());
// What somebody else has claimed for this worker. False: it is not this worker's any more.
bool read_claimed(const handed_task& handed, int max_attempts, MemoryContext memory,
                  claimed_task* task);

}  // namespace underway
