// Whom the end of a transaction wakes: idle workers of a queue's role, clients that wait for work,
// else the coordinator. Runs in: any backend and our own processes. Error discipline: noexcept,
// allocates nothing. Invariant: marks are lowered before anybody is woken.
#pragma once

#include "marks.hpp"

namespace underway {

// How much the coordinator is needed.
enum class need : int { no, worker, yes };

// As lower() in marks.hpp; the entry may have been given up meanwhile, and another made.
void lower_row(queue_entry* q, int queue_id, int priority, const row_key& key) noexcept;

// A timer for the coordinator, unless it looks again before then anyway.
need tell_of_timer(database_entry* db, TimestampTz at) noexcept;

// Of so many tasks that can be taken now; first_due: when the first of them, or of those that come
// later, is due.
need wake_for(database_entry* db, queue_entry* q, int queue_id, int tasks,
              TimestampTz first_due) noexcept;

// With every worker busy and no more to be had, the next end of a task finds the work: nobody needs
// to hear of it.
void poke_if(database_entry* db, need n) noexcept;

inline need more(need a, need b) noexcept { return a > b ? a : b; }

}  // namespace underway
