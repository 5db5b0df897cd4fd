// The library's entry: the magic block, and what is installed when the server starts.
// Runs in: the postmaster; without shared_preload_libraries any backend, where nothing is installed
// and every call raises. Error discipline: _PG_init never raises, since pg_upgrade loads the
// library.
#include "changes.hpp"
#include "clock.hpp"
#include "entry.hpp"
#include "hooks.hpp"
#include "launcher.hpp"
#include "settings.hpp"
#include "stamp.hpp"
#include "wake.hpp"

extern "C" {
PG_MODULE_MAGIC;
PGDLLEXPORT void _PG_init(void);
}

void _PG_init(void) {
  if (!process_shared_preload_libraries_in_progress) {
    return;
  }
  underway::settings::define();
  if (IsBinaryUpgrade) {
    return;
  }
  underway::install_shared_memory_hooks();
  underway::install_transaction_callbacks();
  underway::install_clock_callbacks();
  underway::install_stamp_callbacks();
  underway::install_change_callbacks();
  underway::install_hooks();
  underway::register_launcher();
}

namespace underway {

void require_preload() {
  if (preloaded()) {
    return;
  }
  const char* value = GetConfigOption("shared_preload_libraries", true, false);
  const char* separator = value != nullptr && *value != '\0' ? ", " : "";
  ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                  errmsg("underway is not loaded at server start"),
                  errdetail("Its workers and its shared memory exist only if the server loads the "
                            "library when it starts."),
                  errhint("Put this line into postgresql.conf and restart the server: "
                          "shared_preload_libraries = '%s%sunderway'",
                          value != nullptr ? value : "", separator)));
}

UNDERWAY_ENTRY(underway_library_version) {
  return pg::call([] {
    // pg_upgrade restores the schema into a server that loads the library but gives it no shared
    // memory.
    if (!IsBinaryUpgrade) {
      require_preload();
    }
    return CStringGetTextDatum(UNDERWAY_VERSION);
  });
}

UNDERWAY_ENTRY(underway_system_identifier) {
  return Int64GetDatum(static_cast<int64>(GetSystemIdentifier()));
}

}  // namespace underway
