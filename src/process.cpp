#include "process.hpp"

#include "pg/compat.hpp"
#include "pg/identity.hpp"
#include "pg/transaction.hpp"

namespace underway::process {

void start(Oid database, Oid role, const char* name) {
  pqsignal(SIGTERM, die);
  pqsignal(SIGHUP, SignalHandlerForConfigReload);
  BackgroundWorkerUnblockSignals();
  if (OidIsValid(database)) {
    BackgroundWorkerInitializeConnectionByOid(database, role, pg::bypass_role_login);
  } else {
    BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
  }
  // As a source that RESET ALL leaves alone.
  SetConfigOption("application_name", name, PGC_USERSET, PGC_S_OVERRIDE);
  pgstat_report_appname(name);
}

void house_keeping() {
  QueryCancelPending = false;  // a cancel that found nothing to cancel
  CHECK_FOR_INTERRUPTS();
  if (ConfigReloadPending) {
    ConfigReloadPending = false;
    ProcessConfigFile(PGC_SIGHUP);
  }
}

bool sleep(long milliseconds, const char* event) {
  return pg::call([milliseconds, event] {
    const int events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds, pg::wait_event(event));
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

}  // namespace underway::process
