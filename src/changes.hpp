// What a transaction changed in the catalogs that concerns our processes: functions, rights, roles,
// extensions, databases, settings. Runs in: any backend, from its hooks. Error discipline:
// noexcept, memory only. Invariant: told after the commit's locks are released and its invalidation
// messages sent (xact.c, CommitTransaction), so that whoever hears of it sees it; and not at all
// when the transaction aborts.
#pragma once

#include "shared.hpp"

namespace underway {

// Functions or rights that queues of this database depend on were created, altered or dropped.
void note_handlers_changed() noexcept;
// Roles, or rights that they have in a database: they are common to all databases.
void note_roles_changed() noexcept;
// The database was created, or what it has of the extension was changed, or whether it is to be
// served.
void note_database_changed(Oid database) noexcept;
// ALTER DATABASE or ROLE ... SET (InvalidOid: of all): only new processes have it.
void note_settings_changed(Oid database, Oid role) noexcept;

// COMMIT PREPARED and ROLLBACK PREPARED do not say what they end.
void tell_of_prepared_changes(Oid database) noexcept;

void install_change_callbacks();

}  // namespace underway
