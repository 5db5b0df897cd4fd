// The queues of this database as a worker or the coordinator knows them: read from the table, again
// when `generation` moves. Runs in: workers, coordinators, and run_inline. Error discipline: throws
// pg::error. Invariant: a queue without `obstacle` may be worked here and now by its owner's
// workers.
#pragma once

#include "marks.hpp"
#include "pg/error.hpp"

namespace underway {

enum class obstacle {
  none,
  dropped,
  held,  // a restored or cloned copy (promise 12)
  paused,
  external,  // no handler: for external workers
  owner_missing,
  owner_cannot_login,  // or not connect to this database
  superuser,           // and underway.superuser_queues is off
  handler_missing,
  handler_forbidden,  // the owner may not execute it
  handler_foreign     // it was made by somebody who could gain the owner's rights by it
};

struct queue_info {
  int id;
  const char* name;
  Oid owner;
  bool owner_superuser;
  const char* handler_schema;
  const char* handler_name;
  bool takes_input;
  const char* handler_owner;  // when the handler was set, or null
  Oid handler;
  int concurrency;  // 0: no limit
  int batch;        // 1: none
  bool async;
  bool workflow;   // its tasks are steps, each with a function of its own
  bool on_change;  // of a workflow: functions that were changed are not just called
  bool keep_succeeded;
  int max_attempts;
  Interval* timeout;  // or null
  Interval* ttl;      // never null
  Jsonb* settings;    // or null
  obstacle why;
  bool unfinished;     // dropped, and tasks have committed into it
  queue_entry* entry;  // null: no room in shared memory, or dropped
  float8 average_ms;   // how long its tasks took lately, in this process
};

class queue_list {
 public:
  // role: only queues of this owner; InvalidOid: all, dropped ones of late included. In a
  // transaction of ours.
  void load(Oid role);
  queue_info* begin() noexcept { return queues_; }
  queue_info* end() noexcept { return queues_ + count_; }
  queue_info* find(int id) noexcept;
  void clear() noexcept;

 private:
  MemoryContext memory_ = nullptr;
  queue_info* queues_ = nullptr;
  int count_ = 0;
};

// One queue as run_inline sees it, in the transaction that is open: also in a copy, and whether its
// owner may log in does not matter. Its strings are allocated in `memory`. False: there is none.
bool read_queue(int id, queue_info* q, MemoryContext memory);

// Found again by its name, a function may have been made by anybody who can make functions in its
// schema. maker_then: whose it was when it was set. Inside pg::call.
bool is_trusted(const queue_info* q, Oid function, const char* maker_then);

// Looks again whether the handler stands and may be run: cheap, from the caches. Inside pg::call.
obstacle check_handler(queue_info* q);

}  // namespace underway
