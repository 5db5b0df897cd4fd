// The table of unfinished tasks, for who reads and writes its rows without a statement: claim,
// archive, and the ends of steps. Runs in: any backend, as the extension's owner, inside pg::call.
// Error discipline: server code, may raise.
#pragma once

#include "pg/table.hpp"

namespace underway {

#define UNDERWAY_TASK_COLUMNS(column)                                                              \
  column(id) column(queue_id) column(priority) column(state) column(run_at) column(enqueued_at)    \
      column(attempt) column(failures) column(crashes) column(losses) column(snoozes) column(slot) \
          column(generation) column(boot) column(claimed_at) column(expires_at) column(lease)      \
              column(enqueued_by) column(input) column(headers) column(key) column(group_key)      \
                  column(timeout) column(heartbeat) column(retry) column(worker) column(run_id)    \
                      column(version) column(step) column(item) column(phase) column(paused_by)

namespace task_column {
#define UNDERWAY_COLUMN(name) name,
enum : int { UNDERWAY_TASK_COLUMNS(UNDERWAY_COLUMN) };
#undef UNDERWAY_COLUMN
}  // namespace task_column

extern pg::columns of_task;

// Open, and its columns found.
void open_tasks(pg::table* t);

// The row of a task is what was found after this, if it stands where it was written;
bool stands_at(pg::table* t, const pg_uuid_t* id, const pg::place& where);
// and, since others may have changed it, by its id.
bool find_task(pg::table* t, const pg_uuid_t* id, const pg::place& where);

// The row of an attempt in progress, deleted; false: there is no such attempt.
bool take_out(pg::table* t, const pg_uuid_t* id, int attempt, const pg::place& claimed_at);

}  // namespace underway
