// What differs between PostgreSQL 15, 16, 17 and 18: the only place with a test of the version.
// Runs in: every process. Error discipline: as the server function that each one wraps.
#pragma once

#include "server.hpp"

namespace underway::pg {

#if PG_VERSION_NUM >= 170000
using proc_number = ProcNumber;
inline proc_number my_proc_number() noexcept { return MyProcNumber; }
inline constexpr uint32 bypass_role_login = BGWORKER_BYPASS_ROLELOGINCHECK;
inline constexpr bool nologin_can_work = true;
#else
using proc_number = int;
inline proc_number my_proc_number() noexcept { return MyProc->pgprocno; }
inline constexpr uint32 bypass_role_login = 0;
inline constexpr bool nologin_can_work = false;
#endif

// Changes when the table is written anew.
inline Oid file_of(Relation table) noexcept {
#if PG_VERSION_NUM >= 160000
  return table->rd_locator.relNumber;
#else
  return table->rd_node.relNode;
#endif
}

inline void set_latch_of(proc_number n) noexcept { SetLatch(&ProcGlobal->allProcs[n].procLatch); }

inline bool portal_run(Portal portal, bool top_level, DestReceiver* dest, QueryCompletion* qc) {
#if PG_VERSION_NUM >= 180000
  return PortalRun(portal, FETCH_ALL, top_level, dest, dest, qc);
#else
  return PortalRun(portal, FETCH_ALL, top_level, true, dest, dest, qc);
#endif
}

inline IndexScanDesc begin_scan(Relation table, Relation index, Snapshot snapshot, int keys) {
#if PG_VERSION_NUM >= 180000
  return index_beginscan(table, index, snapshot, nullptr, keys, 0);
#else
  return index_beginscan(table, index, snapshot, keys, 0);
#endif
}

#if PG_VERSION_NUM >= 160000
// Which indexes an update needs entries in. (BRIN indexes, which could do with less, we have none.)
using index_changes = TU_UpdateIndexes;
inline bool are_needed(index_changes c) noexcept { return c == TU_All; }
#else
using index_changes = bool;
inline bool are_needed(index_changes c) noexcept { return c; }
#endif

// An owner check by role: of databases and of extensions.
inline bool owns_database(Oid database, Oid role) {
#if PG_VERSION_NUM >= 160000
  return object_ownercheck(DatabaseRelationId, database, role);
#else
  return pg_database_ownercheck(database, role);
#endif
}

inline bool owns_extension(Oid extension, Oid role) {
#if PG_VERSION_NUM >= 160000
  return object_ownercheck(ExtensionRelationId, extension, role);
#else
  return pg_extension_ownercheck(extension, role);
#endif
}

inline bool may_execute(Oid function, Oid role) {
#if PG_VERSION_NUM >= 160000
  return object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE) == ACLCHECK_OK;
#else
  return pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK;
#endif
}

inline bool may_connect(Oid database, Oid role) {
#if PG_VERSION_NUM >= 160000
  return object_aclcheck(DatabaseRelationId, database, role, ACL_CONNECT) == ACLCHECK_OK;
#else
  return pg_database_aclcheck(database, role, ACL_CONNECT) == ACLCHECK_OK;
#endif
}

inline bool may_use_schema(Oid schema, Oid role) {
#if PG_VERSION_NUM >= 160000
  return object_aclcheck(NamespaceRelationId, schema, role, ACL_USAGE) == ACLCHECK_OK;
#else
  return pg_namespace_aclcheck(schema, role, ACL_USAGE) == ACLCHECK_OK;
#endif
}

inline bool can_become(Oid member, Oid role) {
#if PG_VERSION_NUM >= 160000
  return member_can_set_role(member, role);
#else
  return is_member_of_role(member, role);
#endif
}

inline void no_transaction_timeout() {
#if PG_VERSION_NUM >= 170000
  if (get_timeout_active(TRANSACTION_TIMEOUT)) {
    disable_timeout(TRANSACTION_TIMEOUT, false);
  }
#endif
}

inline uint32 wait_event(const char* name) {
#if PG_VERSION_NUM >= 170000
  return WaitEventExtensionNew(name);
#else
  (void)name;
  return PG_WAIT_EXTENSION;
#endif
}

}  // namespace underway::pg
