// The attempt that this process is running, for the functions that a handler may ask: task_id(),
// attempt(), ... Runs in: workers; in every other backend there is none. Error discipline: entries
// are boundaries.
#pragma once

#include "pg/relation.hpp"
#include "slots.hpp"

namespace underway {

struct claimed_task {
  pg_uuid_t id;
  pg::place at;  // of its row; unknown where SQL has claimed it
  int attempt;
  Jsonb* input;
  Jsonb* headers;     // or null
  Interval* timeout;  // or null
  bool last_attempt;
  int crashes;
  pg_uuid_t lease;  // of an external worker; then also:
  TimestampTz claimed_at;
  Interval* heartbeat;  // or null
  bool of_run;          // a step of a run of a workflow; then:
  pg_uuid_t run_id;
  int version;
  const char* step;  // null: a nudge
  int item;
  const char* phase;  // or null
};

// Set for the length of a handler's run, and of the commit that may run its deferred triggers.
extern const claimed_task* current_task;
// This process's slot and the entry of its database; null unless it is a worker.
extern worker_slot* my_slot;
extern database_entry* my_database;

}  // namespace underway
