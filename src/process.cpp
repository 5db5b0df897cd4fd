#include "process.hpp"

#include "pg/compat.hpp"
#include "pg/identity.hpp"
#include "pg/transaction.hpp"
#include "shared.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>

namespace underway::process {

namespace {
volatile sig_atomic_t sender = 0;

void on_sigterm(int signal, siginfo_t* info, void*) {
  sender = info->si_pid;
  die(signal);
}
}  // namespace

int terminated_by() noexcept { return sender; }

void hold_cancels() noexcept {
  QueryCancelHoldoffCount = 1;  // an error sets it to 0 (elog.c)
}

void forget_cancels() noexcept { QueryCancelPending = false; }

void allow_cancels() noexcept { QueryCancelHoldoffCount = 0; }

void start(Oid database, Oid role, const char* name) {
  // With the sender: whoever terminates a worker is told apart from a handler that terminates
  // itself.
  struct sigaction action = {};
  action.sa_sigaction = on_sigterm;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigemptyset(&action.sa_mask);
  (void)sigaction(SIGTERM, &action, nullptr);
  pqsignal(SIGHUP, SignalHandlerForConfigReload);
  BackgroundWorkerUnblockSignals();
  if (OidIsValid(database)) {
    BackgroundWorkerInitializeConnectionByOid(database, role, pg::bypass_role_login);
  } else {
    BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
  }
  // As a source that RESET ALL leaves alone, and that goes before the settings of roles and
  // databases: an error is to be recorded, not to end the process.
  hold_cancels();
  SetConfigOption("application_name", name, PGC_USERSET, PGC_S_OVERRIDE);
  SetConfigOption("exit_on_error", "off", PGC_USERSET, PGC_S_OVERRIDE);
  pgstat_report_appname(name);
}

namespace {
int reload_count = 0;
uint64 published = 0;
}  // namespace

int reloads() noexcept { return reload_count; }

void house_keeping() {
  hold_cancels();
  forget_cancels();  // one that found nothing to cancel
  CHECK_FOR_INTERRUPTS();
  if (ConfigReloadPending) {
    ConfigReloadPending = false;
    ProcessConfigFile(PGC_SIGHUP);
    reload_count++;
  }
  const uint64 begun = pg::transaction::begun();
  shared->transactions += begun - published;
  published = begun;
}

bool sleep(long milliseconds, const char* event) {
  return pg::call([milliseconds, event] {
    const int events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
                                 milliseconds, pg::wait_event(event));
    ResetLatch(MyLatch);
    house_keeping();
    return (events & WL_LATCH_SET) != 0;
  });
}

bool extension_is_gone() {
  pg::transaction tx(pg::transaction::kind::ours);
  const bool gone = !OidIsValid(pg::extension_oid());
  tx.commit();
  return gone;
}

namespace {
// For underway.check_health().
void publish_trouble(const char* message) {
  LWLockAcquire(registry_lock, LW_EXCLUSIVE);
  database_entry* db = find_database(MyDatabaseId, false);
  if (db != nullptr) {
    const int length = pg_mbcliplen(message, static_cast<int>(strlen(message)),
                                    static_cast<int>(sizeof db->trouble) - 1);
    memcpy(db->trouble, message, static_cast<size_t>(length));
    db->trouble[length] = '\0';
    db->trouble_at = GetCurrentTimestamp();
  }
  LWLockRelease(registry_lock);
}
}  // namespace

void recovered(int* failures) noexcept {
  if (*failures > 0) {
    *failures = 0;
    database_entry* db = find_database(MyDatabaseId, false);
    if (db != nullptr) {
      db->trouble_at = DT_NOBEGIN;
    }
  }
}

void endure(const pg::error& error, int* failures) {
  constexpr TimestampTz longest_pause = 10 * USECS_PER_SEC;
  if (extension_is_gone()) {
    throw;
  }
  pg::call([&error] {
    const ErrorData& e = error.data();
    ereport(WARNING, (errcode(e.sqlerrcode), errmsg_internal("%s", e.message),
                      e.detail != nullptr ? errdetail_internal("%s", e.detail) : 0,
                      e.hint != nullptr ? errhint("%s", e.hint) : 0,
                      e.context != nullptr ? errcontext("%s", e.context) : 0));
    publish_trouble(e.message != nullptr ? e.message : "unknown error");
  });
  const TimestampTz end =
      GetCurrentTimestamp() +
      std::min(longest_pause, (USECS_PER_SEC / 2) << std::min((*failures)++, 10));
  for (TimestampTz left = end - GetCurrentTimestamp(); left > 0;
       left = end - GetCurrentTimestamp()) {
    (void)sleep(static_cast<long>(left / 1000) + 1, "UnderwayTrouble");
  }
}

}  // namespace underway::process
