// The queues that this worker may run, and which of them comes next. Runs in: workers. Error
// discipline: load_my_queues() throws pg::error; the others are noexcept, memory only. Invariant:
// what is known is as of a generation of the database's entry; is_current() says whether that
// still stands.
#pragma once

#include "queues.hpp"

namespace underway {

// Again where something was changed. False: the role is gone, or may not be here any more.
bool load_my_queues();
bool is_current() noexcept;

// The coordinator reads the queues again after this, and then knows that a handler or a right that
// comes is to be looked at.
void tell_blocked() noexcept;
// Who woke this worker may know that what blocked a queue is gone, though nothing else has changed.
void doubt_blocked() noexcept;

queue_info* my_queue(int id) noexcept;  // or null

// The queue whose most urgent lane comes first: by priority, then by how long something has been
// due. Null: nothing is due, or may be run.
queue_info* choose_queue(int* priority) noexcept;
bool at_limit(const queue_info& q) noexcept;
// How many to take of it: as many as run soon, and none that an idle worker could begin at once.
int tasks_wanted(const queue_info& q) noexcept;

}  // namespace underway
