// Suspects: tasks that were in progress when the server, or their worker, crashed. Those that run
// share the server; one that would be given up at its next crash has it alone, so that it cannot be
// taken for another's, nor another for it (promise 8). Runs in: workers. Error discipline:
// noexcept, memory only. Invariant: a suspect is in progress only while its worker has entered:
// what waits for its turn is pending, and a crash is not charged to it. A claim passes over what
// may not run now; whoever leaves has the queues looked at again.
#pragma once

#include "marks.hpp"

namespace underway {

// How many crashes a task of this queue may have had to be claimed now. Before the claim's
// snapshot.
int suspects_allowed(queue_entry* q) noexcept;

// Before the claim commits. False: another one came first.
bool enter_suspect(int crashes) noexcept;

// After the end of the task, and when the process ends.
void leave_suspect() noexcept;

}  // namespace underway
