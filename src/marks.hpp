// Low-water marks: for each queue and priority, where a claim may start looking, and when it next
// needs to. Runs in: workers and dequeuing clients raise them after commit; whoever enqueues, locks
// or changes a pending row lowers them at the end of its transaction; the coordinator's surveys
// fill them. Error discipline: noexcept, memory only, under a spinlock. Invariant: no pending row
// that is due, committed and unlocked lies before the mark, except while the transaction that made
// it so is still between its commit and its callback. The protocol:
//   - a claimer registers a scan (low = infinity) BEFORE its snapshot, and ends it after its
//   commit: only then is the mark raised,
//     to no more than the scan's low;
//   - whoever makes a row pending, or locks a pending row, lowers at commit, abort and abort of a
//   subtransaction: the mark and the
//     low of every scan under way drop to that row's key. So a row that a scan skipped, because it
//     was not visible yet or locked, is found by the next one. That end also wakes somebody for it,
//     since the one who skipped it may be asleep by then.
// An entry whose mark is the minimum knows nothing: it is looked at from the head.
#pragma once

#include "shared.hpp"

namespace underway {

inline constexpr int priorities = 16;

struct row_key {
  TimestampTz run_at;
  pg_uuid_t id;
};
inline constexpr row_key lowest_key = {DT_NOBEGIN, {{0}}};
inline constexpr row_key highest_key = {DT_NOEND,
                                        {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                          0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}};
bool before(const row_key& a, const row_key& b) noexcept;

struct lane {            // the pending tasks of one queue with one priority
  row_key mark;          // start here
  TimestampTz next_due;  // not before then; DT_NOEND: nothing pending
  uint32 changes;  // how often something lowered it: who is not registered sees whether what it
                   // found still holds
};

struct active_scan {
  bool used;
  int priority;
  row_key low;
};

struct queue_entry {
  static constexpr int max_scans =
      16;  // one more claimer than that raises nothing if something lowered the lane meanwhile
  Oid database;  // set under registry_lock; InvalidOid: free
  int queue_id;
  int next;      // in its hash bucket
  uint32 epoch;  // of this use of the entry: whoever still holds the entry of an earlier one
                 // changes nothing
  int maker;     // 1 + the process whose transaction creates the queue; 0: that has ended. Its own,
                 // under registry_lock
  SubTransactionId made_in;
  std::atomic<Oid>
      role;  // whose workers run it; InvalidOid: nobody's (external, paused, blocked, held)
  std::atomic<bool> unlimited;    // as many workers as there are may run it
  std::atomic<bool> quiet;        // the coordinator knows that it has nothing to do for it
  std::atomic<bool> passed_over;  // a claim may have left suspects that could not run then
  std::atomic<bool> full;  // external: its limit is reached, or it is paused; set before the look
                           // that finds it so
  std::atomic<TimestampTz> earliest;  // the least next_due
  slock_t mutex;
  lane lanes[priorities];
  active_scan scans[max_scans];
};

queue_entry* find_queue_entry(Oid database, int queue_id,
                              bool make) noexcept;  // null: none, or no room
void forget_queue_entries(Oid database) noexcept;   // under registry_lock
void forget_queue_entry(Oid database, int queue_id) noexcept;
// Of queues that this transaction creates: nobody else knows them, so their entries go when it does
// not commit.
void mark_made(Oid database, int queue_id) noexcept;
void keep_made() noexcept;
void forget_made(SubTransactionId from) noexcept;  // this subtransaction and those below it

struct scan {
  int place;  // in queue_entry::scans; -1: there was no room
  uint32 epoch;
  uint32 changes;  // of the lane, when it began
  row_key start;
};
scan begin_scan(queue_entry* q, int queue_id, int priority) noexcept;
// last: the key of the last row found. exhausted: no more rows were due at scanned_at; then
// next_due says when there will be.
void end_scan(queue_entry* q, const scan& s, int priority, const row_key* last, bool exhausted,
              TimestampTz scanned_at, TimestampTz next_due) noexcept;
// Nothing came of it.
void drop_scan(queue_entry* q, const scan& s) noexcept;

// A survey finds out when each priority is next due, by a look at the first rows. It is not
// registered, so its process may die.
struct survey {
  uint32 epoch;
  uint32 changes[priorities];
};
survey begin_survey(queue_entry* q) noexcept;
// False: something became pending meanwhile, and some lanes are still unknown.
bool end_survey(queue_entry* q, const survey& s, const TimestampTz heads[priorities]) noexcept;

// False: the entry is no longer this queue's.
bool lower(queue_entry* q, int queue_id, int priority, const row_key& key) noexcept;
// Back to knowing nothing.
void reset_marks(queue_entry* q) noexcept;
void reset_all_marks(Oid database) noexcept;  // InvalidOid: of every database

// What this transaction itself made pending is found by its own next claim.
void lower_to_now(queue_entry* q) noexcept;

lane lane_of(queue_entry* q, int priority) noexcept;
bool lane_is_due(queue_entry* q, int priority, TimestampTz now, TimestampTz* next_due) noexcept;
// The most urgent lane that may have something due, or -1.
int due_priority(queue_entry* q, TimestampTz now, TimestampTz* next_due) noexcept;

}  // namespace underway
