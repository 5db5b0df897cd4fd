// What our processes share: signals, the connection, sleeping, reloading the configuration.
// Runs in: launcher, coordinators, workers. Error discipline: server code inside pg::call, unless
// noted. Invariant: every loop of ours passes here, and so CHECK_FOR_INTERRUPTS: one that did not
// would hang each DROP DATABASE (CXX facts).
#pragma once

#include "pg/error.hpp"

namespace underway::process {

// Signals, then the connection. role InvalidOid: the bootstrap superuser; database InvalidOid:
// shared catalogs only. Ends the process (FATAL) when it cannot connect. Called outside pg::call.
void start(Oid database, Oid role, const char* name);

// Who sent SIGTERM; 0: nobody.
int terminated_by() noexcept;

// No cancel reaches our own statements: they are held off but while user code runs. Memory only.
// What came before is forgotten first, then it is shown what runs, then cancels are allowed: one
// that was sent meanwhile is for what runs.
void hold_cancels() noexcept;
void forget_cancels() noexcept;
void allow_cancels() noexcept;

// Between two pieces of work: interrupts and the configuration.
void house_keeping();

// How often the configuration was read again.
int reloads() noexcept;

// Until the latch is set (true) or the time is over. Throws.
bool sleep(long milliseconds, const char* event);

// In a transaction of its own. Throws.
bool extension_is_gone();

// What is ours failed, and may come right: the disk is full, a table is locked. Its transaction is
// gone. Says so in the log and pauses, longer each time. Throws when the extension is gone, which
// nothing helps against. Called in the handler of the error.
void endure(const pg::error& error, int* failures);
// It did come right: nobody is told of it any more.
void recovered(int* failures) noexcept;

}  // namespace underway::process
