#include "changes.hpp"

#include "slots.hpp"

namespace underway {

namespace {

constexpr int most = 8;

struct settings_note {
  Oid database;  // InvalidOid: all
  Oid role;      // InvalidOid: all
};

struct changes {
  bool handlers;
  bool roles;
  int databases_count;  // over `most`: all
  Oid databases[most];
  int settings_count;  // over `most`: all
  settings_note settings[most];
} mine = {};
bool any = false;
bool committed = false;  // and not told yet

void tell_of_handlers() noexcept {
  database_entry* db = find_database(MyDatabaseId, false);
  if (db != nullptr && db->blocked) {
    db->generation++;
    poke_coordinator(db);
  }
}

void tell_of_roles() noexcept {
  for (int n = 0; n < shared->databases_size; n++) {
    database_entry* db = shared->databases() + n;
    const Oid oid = db->oid;
    if (OidIsValid(oid)) {
      db->generation++;
      (void)wake_idle(oid, InvalidOid, shared->slots_size);  // workers of a role that is gone leave
      if (db->coordinator_pid != 0 || db->blocked) {
        poke_coordinator(db);
      }
    }
  }
}

void tell_of_databases() noexcept {
  for (int n = 0; n < Min(mine.databases_count, most); n++) {
    ask_to_recheck(mine.databases[n]);
  }
  for (int n = 0; n < shared->databases_size && mine.databases_count > most; n++) {
    const Oid oid = shared->databases()[n].oid;
    if (OidIsValid(oid)) {
      ask_to_recheck(oid);
    }
  }
}

void tell_of_settings(const settings_note& note) noexcept {
  for (int n = 0; n < shared->databases_size && !OidIsValid(note.role); n++) {
    database_entry* db = shared->databases() + n;
    if (OidIsValid(db->oid) && (!OidIsValid(note.database) || db->oid == note.database)) {
      db->restart = true;
      poke_coordinator(db);
    }
  }
  for (int n = 0; n < shared->slots_size && OidIsValid(note.role); n++) {
    worker_slot* slot = slot_at(n);
    const Oid database = slot->database;
    if (slot->role == note.role && (!OidIsValid(note.database) || database == note.database)) {
      slot->retire = true;
      (void)wake_idle(database, note.role, shared->slots_size);
    }
  }
}

void forget() noexcept {
  mine = {};
  any = committed = false;
}

void at_end(XactEvent event, void*) {
  if (!any) {
    return;
  }
  switch (event) {
    case XACT_EVENT_COMMIT:
      committed = true;
      break;
    case XACT_EVENT_ABORT:
      forget();
      break;
    case XACT_EVENT_PREPARE:
      if (mine.databases_count > 0 || mine.roles) {
        shared->prepared_changes = true;
      }
      forget();
      break;
    default:
      break;
  }
}

void after_locks(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void*) {
  if (!committed || phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_commit || !is_top_level ||
      CurrentResourceOwner != TopTransactionResourceOwner) {
    return;
  }
  if (mine.handlers) {
    tell_of_handlers();
  }
  if (mine.roles) {
    tell_of_roles();
  }
  tell_of_databases();
  for (int n = 0; n < Min(mine.settings_count, most); n++) {
    tell_of_settings(mine.settings[n]);
  }
  if (mine.settings_count > most) {
    tell_of_settings({InvalidOid, InvalidOid});
  }
  forget();
}

}  // namespace

void note_handlers_changed() noexcept { any = mine.handlers = true; }

void note_roles_changed() noexcept { any = mine.roles = true; }

void note_database_changed(Oid database) noexcept {
  if (!OidIsValid(database)) {
    return;
  }
  any = true;
  for (int n = 0; n < Min(mine.databases_count, most); n++) {
    if (mine.databases[n] == database) {
      return;
    }
  }
  if (mine.databases_count < most) {
    mine.databases[mine.databases_count] = database;
  }
  mine.databases_count++;
}

void note_settings_changed(Oid database, Oid role) noexcept {
  any = true;
  if (mine.settings_count < most) {
    mine.settings[mine.settings_count] = {database, role};
  }
  mine.settings_count++;
}

void tell_of_prepared_changes(Oid database) noexcept {
  if (shared->prepared_changes) {
    ask_to_recheck(database);
    tell_of_roles();
  }
}

void install_change_callbacks() {
  RegisterXactCallback(at_end, nullptr);
  RegisterResourceReleaseCallback(after_locks, nullptr);
}

}  // namespace underway
