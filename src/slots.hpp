// Worker slots: which background workers there are and what each one runs. The server's knowledge
// of who is alive. Runs in: written by the worker itself and by its database's coordinator; read by
// everybody. Error discipline: noexcept, memory only. Invariant: (boot, slot, generation) names one
// process for ever; a task in progress whose triple is not a live slot's was lost.
#pragma once

#include "pg/relation.hpp"
#include "shared.hpp"

namespace underway {

enum class slot_state : uint32 {
  free,
  starting,  // given out by the coordinator; the process has not attached yet
  busy,
  idle,      // asleep, or about to be: whoever has work makes it busy and sets its latch
  reserved,  // the same, and some transaction is about to hand it a task (hand_over.hpp), whose end
             // makes it busy
  abandoned,  // reserved, and the process is gone: that transaction's end makes it dead
  dead  // the process is gone and may have left tasks: the coordinator reclaims them, then frees
        // the slot (without one: the launcher)
};

// How a worker ended that held tasks.
enum class death : uint32 {
  asked,     // somebody sent SIGTERM: no fault of the task
  own,       // FATAL, or it terminated itself, while a handler ran: counts as a crash of the task
  timed_out  // the handler went on after its timeout: a failure of the task
};

struct handed_task {
  pg_uuid_t id;
  pg::place at;  // of its row
  int priority;
};

struct worker_slot {
  static constexpr int max_prefetch = 64;
  static constexpr int progress_size = 512;
  static constexpr size_t most_progress = 500;

  std::atomic<slot_state> state;
  std::atomic<Oid> database;
  std::atomic<Oid> role;
  std::atomic<int> pid;
  std::atomic<int> proc;
  std::atomic<uint32> generation;
  std::atomic<bool> fresh;             // has not looked for work yet
  std::atomic<bool> connecting;        // attached, and not in the database yet
  std::atomic<uint32> failed;          // the last generation that could not connect
  std::atomic<bool> retire;            // leave at the next end of a task
  std::atomic<TimestampTz> retire_at;  // since when, where it was asked to make room
  std::atomic<bool> overdue;  // runs long while it holds tasks that it has not begun, or one of
                              // those was cancelled; taken back under the mutex
  std::atomic<TimestampTz> started_at;
  std::atomic<int> queue_id;     // of the tasks that it holds
  std::atomic<int> tasks;        // how many it holds, claimed and not finished
  std::atomic<int> revoked;      // how many it held until the coordinator took them, which has not
                                 // given them back yet
  std::atomic<death> died;       // of a dead slot: how
  std::atomic<bool> has_handed;  // what follows, which whoever reserved it has written
  handed_task handed;
  pg::place
      recorded_at;  // its row of `claim`; written by whoever claims for it, one after the other
  std::atomic<TimestampTz> cancelled_at;  // its task was cancelled and has not ended; 0: no

  slock_t mutex;  // for what follows
  bool running;
  pg_uuid_t task_id;
  int attempt;
  TimestampTz task_started_at;
  int begun;  // of the prefetched tasks, how many were begun
  int prefetched;
  pg_uuid_t ids[max_prefetch];
  int attempts[max_prefetch];
  char progress[progress_size];
};

inline worker_slot* slot_at(int n) noexcept { return shared->slots() + n; }
inline int number_of(const worker_slot* slot) noexcept {
  return static_cast<int>(slot - shared->slots());
}

// A free slot for a worker of this database and role, now `starting`, or null. Under registry_lock
// inside.
worker_slot* take_slot(Oid database, Oid role) noexcept;

struct worker_counts {
  int all = 0;  // of every database
  int database = 0;
  int staying = 0;   // of the database, those that have not been asked to leave
  int pool = 0;      // of the database and role
  int starting = 0;  // of the pool, those included that have not looked for work yet
  int idle = 0;      // of the pool
  int leaving = 0;   // of the pool, asked to
};
worker_counts count_workers(Oid database, Oid role) noexcept;

// Tasks of the queue that workers hold.
int tasks_held(Oid database, int queue_id) noexcept;

// Interrupts the handler of this task, if a worker is running it; a task that it holds and has not
// begun is handed back.
void interrupt_task(Oid database, const pg_uuid_t& id) noexcept;

// What people see of a worker.
const char* worker_name(const worker_slot* slot) noexcept;

// A worker of this database is gone: its coordinator looks after what it left, and whoever starves
// after the free place.
void worker_left(Oid database) noexcept;

// Nobody reclaims tasks of a database that is gone, or whose extension is.
void free_orphaned_slots() noexcept;

// Makes up to `wanted` idle workers of the pool (InvalidOid: of any role) busy and wakes them;
// returns how many.
int wake_idle(Oid database, Oid role, int wanted) noexcept;

}  // namespace underway
