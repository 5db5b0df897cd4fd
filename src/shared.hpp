// Shared memory: the cluster's state that only lives as long as the server does.
// Runs in: laid out by the postmaster, used by every process. Error discipline: accessors are
// noexcept and touch memory only. Invariant: everything here can be lost. After a start it is
// empty, `boot` is new, and the tables say what is to be done.
#pragma once

#include "pg/compat.hpp"

#include <atomic>

namespace underway {

struct queue_entry;  // marks.hpp
struct worker_slot;  // slots.hpp
struct awaiter;      // await.hpp
struct work_waiter;  // external.hpp

// A database that has the extension, or may have it (the coordinator finds out).
struct database_entry {
  std::atomic<Oid> oid;              // InvalidOid: free
  std::atomic<int> coordinator_pid;  // 0: none
  std::atomic<int> coordinator_proc;
  std::atomic<TimestampTz> coordinator_since;
  std::atomic<bool> starting;  // the launcher has asked for a coordinator that has not attached yet
  std::atomic<bool> wanted;    // the launcher is to start a coordinator
  std::atomic<bool>
      unsure;  // the launcher looks first whether the database exists and is to be served
  std::atomic<bool> recheck;  // the extension was created, altered or dropped
  std::atomic<bool> restart;  // settings of the database were changed: only a new process has them
  std::atomic<bool> yield;  // the coordinator and its workers are to make room for another database
  std::atomic<bool> off;  // underway.enabled is off, as the coordinator that is or was there has it
  std::atomic<int> holds;       // statements under way that need the database without our processes
  std::atomic<bool> poked;      // the coordinator was woken and has not looked yet
  std::atomic<bool> saturated;  // no more workers can be had: nothing to tell the coordinator
  std::atomic<int>
      starving;  // 1 + the size of its smallest pool that has work and got no worker; 0: none
  std::atomic<TimestampTz> starving_since;  // of that pool (real time)
  std::atomic<TimestampTz> place_to_come;   // as the server's, of those that a database may have
  std::atomic<uint32> generation;           // of the queues' settings
  std::atomic<bool> blocked;                // some queue waits for its handler or owner
  std::atomic<bool> told_held;              // the log says that queues are held
  std::atomic<bool> cancels;   // tasks in progress were cancelled: some may be pending again by now
  std::atomic<bool> looks;     // a client has finished a child of a map
  std::atomic<bool> controls;  // something was asked of a run, and the coordinator has not looked
  std::atomic<bool> asked;     // something may be asked that the run's row does not say yet
  std::atomic<TimestampTz>
      wakes_at;  // when the coordinator, or without one the launcher, looks again by itself
  std::atomic<TimestampTz> next_expiry;    // of task-level ttls
  std::atomic<TimestampTz> next_stale;     // of leases given since the coordinator looked
  std::atomic<TimestampTz> next_deadline;  // of runs started since then
  std::atomic<TimestampTz> retry_at;       // back-off of the launcher (real time)
  std::atomic<int> failures;               // coordinators in a row that failed to start or died
  // Some process of ours last failed at what is ours to do, and no process has done it since (real
  // time); what it said, under registry_lock.
  std::atomic<TimestampTz> trouble_at;
  char trouble[256];
};

struct shared_state {
  int64 boot;                             // this start of the server
  bool unclean;                           // the start before it did not end by a shutdown
  std::atomic<TimestampTz> recovered_at;  // when the launcher first ran: recovery is over
  std::atomic<int64> clock_offset;        // microseconds, tests only
  std::atomic<int> launcher_pid;
  std::atomic<int> launcher_proc;
  std::atomic<uint64> pokes;            // counted, for tests
  std::atomic<uint64> transactions;     // of our processes: counted, for tests
  std::atomic<bool> coordinator_waits;  // the launcher found no background worker slot for it
  std::atomic<bool>
      prepared_changes;  // some prepared transaction made or dropped an extension, or changed roles
  std::atomic<TimestampTz> place_to_come;  // when a worker was last asked to give way, whose place
                                           // nobody has got yet
  std::atomic<bool> told_no_slot;          // the log says that background worker slots are too few
  std::atomic<bool> told_no_room;          // the log says that underway.max_workers are too few
  std::atomic<uint64> queue_versions;      // stamp.hpp
  std::atomic<int> queue_commits;          // that are becoming visible
  std::atomic<int> suspects;               // that run now; -1: one, alone
  std::atomic<uint64> waitpoints;          // tests only: which are armed
  int databases_size;
  int slots_size;
  int queues_size;
  int awaiters_size;
  int buckets_size;
  std::atomic<int> queues_used;
  std::atomic<int> awaiting;
  database_entry* databases() noexcept;
  worker_slot* slots() noexcept;
  queue_entry* queues() noexcept;
  awaiter* awaiters() noexcept;
  work_waiter* work_waiters() noexcept;  // as many
  int* buckets() noexcept;
};

extern shared_state* shared;  // null unless the library was preloaded
extern LWLock*
    registry_lock;  // databases and slots are given out, and queue entries made, under it

inline bool preloaded() noexcept { return shared != nullptr; }

void install_shared_memory_hooks();

// The entry of a database, or null. make: takes a free one (null: all taken).
database_entry* find_database(Oid oid, bool make) noexcept;
// By its coordinator, or while it has none. False: somebody wants something of it, or a coordinator
// has come, and the entry stays.
bool forget_database(database_entry* db) noexcept;
// Nobody forgets it, and no process of ours begins in it, until let_go(). Null: there is no room
// for an entry, so nobody is there.
database_entry* hold_database(Oid oid) noexcept;
void let_go_of_database(database_entry* db) noexcept;
// The extension may have come, gone or changed in this database.
void ask_to_recheck(Oid oid) noexcept;

void poke_launcher() noexcept;
// The coordinator, if need be a new one, looks at everything once more after this.
void poke_coordinator(database_entry* db) noexcept;

}  // namespace underway
