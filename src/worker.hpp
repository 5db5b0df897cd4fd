// A background worker: connected as one role to one database, it dequeues and executes the tasks of
// that role's queues. Runs in: itself; started by the coordinator. Error discipline: a boundary; an
// error that is not a task's ends the process, and the coordinator sees what it held. Invariant:
// between tasks, everything it holds is in its slot.
#pragma once

#include "slots.hpp"

namespace underway {

// Asks the postmaster for a process for this slot; false: no background worker slot is free.
bool start_worker(worker_slot* slot, BackgroundWorkerHandle** handle);

}  // namespace underway
