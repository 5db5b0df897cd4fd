#include "hooks.hpp"

#include "changes.hpp"
#include "pg/compat.hpp"
#include "pg/error.hpp"
#include "pg/identity.hpp"
#include "slots.hpp"
#include "stamp.hpp"
#include "wake.hpp"

#include <signal.h>

namespace underway {

namespace {

object_access_hook_type earlier_object_access = nullptr;
ProcessUtility_hook_type earlier_utility = nullptr;

// The databases that statements of this backend's transaction need without our processes.
struct hold {
  database_entry* database;
  SubTransactionId where;
};
constexpr int most_holds = 64;
hold holds[most_holds];
int holds_count = 0;

constexpr int patience_ms = 5000;
constexpr int grace_ms = 100;

// Ends our processes in the database, and waits until they are gone. Who has nothing in hand sees
// the hold and leaves by himself.
void end_processes(Oid database, database_entry* db) {
  auto seen = static_cast<int*>(palloc(sizeof(int) * static_cast<Size>(shared->slots_size + 1)));
  int seen_count = 0;
  // The server's own check for others waits up to 5 s as well (procarray.c, CountOtherDBBackends);
  // after that it names them.
  for (int waited = 0; waited < patience_ms; waited += 5) {
    (void)wake_idle(database, InvalidOid, shared->slots_size);
    poke_coordinator(db);
    bool alive = false;
    auto end = [&](int pid, bool at_once) {
      if (pid == 0 || kill(pid, at_once || waited >= grace_ms ? SIGTERM : 0) != 0) {
        return;
      }
      alive = true;
      bool known = false;
      for (int n = 0; n < seen_count; n++) {
        known = known || seen[n] == pid;
      }
      if (!known && seen_count <= shared->slots_size) {
        seen[seen_count++] = pid;
      }
    };
    end(db->coordinator_pid, false);
    for (int n = 0; n < shared->slots_size; n++) {
      worker_slot* slot = slot_at(n);
      const int pid = slot->pid;
      if (slot->database == database) {
        end(pid, slot->running);
      }
    }
    // They have let go of their slots; the server's check counts them until they are off its list
    // too.
    for (int n = 0; n < seen_count && !alive; n++) {
      alive = BackendPidGetProc(seen[n]) != nullptr;
    }
    if (!alive) {
      break;
    }
    (void)WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 5, PG_WAIT_EXTENSION);
    CHECK_FOR_INTERRUPTS();
  }
  pfree(seen);
}

// Ends our processes in the database and keeps new ones out, until the end of this
// (sub)transaction.
void hold_until_end(Oid database) {
  for (int n = 0; n < holds_count; n++) {
    if (holds[n].database->oid == database) {
      return;
    }
  }
  if (holds_count == most_holds) {
    ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                    errmsg("underway: too many databases in one transaction"),
                    errhint("Rename at most %d of them in one transaction.", most_holds)));
  }
  database_entry* db = hold_database(database);
  if (db != nullptr) {
    holds[holds_count++] = {db, GetCurrentSubTransactionId()};
    end_processes(database, db);
  }
}

void let_go(XactEvent event, void*) {
  if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE) {
    while (holds_count > 0) {
      let_go_of_database(holds[--holds_count].database);
    }
  }
}

void let_go_of_subtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent,
                              void*) {
  if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB) {
    return;
  }
  for (int n = holds_count - 1; n >= 0 && holds[n].where == mine; n--) {
    if (event == SUBXACT_EVENT_COMMIT_SUB) {
      holds[n].where = parent;
    } else {
      let_go_of_database(holds[n].database);
      holds_count = n;
    }
  }
}

bool may_create_databases() {
  HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
  const bool may =
      HeapTupleIsValid(tuple) && reinterpret_cast<Form_pg_authid>(GETSTRUCT(tuple))->rolcreatedb;
  if (HeapTupleIsValid(tuple)) {
    ReleaseSysCache(tuple);
  }
  return may || superuser();
}

bool is_template(Oid database) {
  HeapTuple tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
  const bool is = HeapTupleIsValid(tuple) &&
                  reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple))->datistemplate;
  if (HeapTupleIsValid(tuple)) {
    ReleaseSysCache(tuple);
  }
  return is;
}

// As the statement itself checks; for a copy (createdb) a template is as good as one's own.
void hold_if_allowed(const char* name, bool needs_createdb, bool for_copy) {
  const Oid database = get_database_oid(name, true);
  if (!OidIsValid(database) || (needs_createdb && !may_create_databases())) {
    return;
  }
  if (database == MyDatabaseId && !for_copy) {
    return;  // refused whatever we do, and who asks may be one of ours
  }
  if (pg::owns_database(database, GetUserId()) || (for_copy && is_template(database))) {
    hold_until_end(database);
  }
}

void before_create_database(const CreatedbStmt* statement) {
  const char* source = "template1";
  ListCell* cell = nullptr;
  foreach (cell, statement->options) {
    auto option = lfirst_node(DefElem, cell);
    if (strcmp(option->defname, "template") == 0 && option->arg != nullptr) {
      source = defGetString(option);
    }
  }
  hold_if_allowed(source, true, true);
}

// Whatever runs as the extension's owner locks the table queue before anything else (identity.cpp).
// A DROP locks in the order of dependencies; so that neither waits for the other in a circle, it
// takes that one first. Cascades do not come here; they are rare and the deadlock is resolved for
// them.
void before_drop_extension(const DropStmt* statement) {
  ListCell* cell = nullptr;
  foreach (cell, statement->objects) {
    if (strcmp(strVal(lfirst(cell)), "underway") != 0) {
      continue;
    }
    const Oid extension = pg::extension_oid();
    const Oid schema = get_namespace_oid("underway_internal", true);
    if (!OidIsValid(extension) || !OidIsValid(schema) ||
        !pg::owns_extension(extension, GetUserId())) {
      continue;
    }
    const Oid relation = get_relname_relid("queue", schema);
    if (OidIsValid(relation)) {
      LockRelationOid(relation, AccessExclusiveLock);
    }
  }
}

// Statements that cannot run in a transaction block or a function are refused there, with nothing
// to be held for them.
bool runs_alone(ProcessUtilityContext context) {
  return context == PROCESS_UTILITY_TOPLEVEL && !IsTransactionBlock();
}

void before_utility(const Node* statement, ProcessUtilityContext context) {
  switch (nodeTag(statement)) {
    case T_RenameStmt: {
      auto rename = reinterpret_cast<const RenameStmt*>(statement);
      if (rename->renameType == OBJECT_DATABASE) {
        hold_if_allowed(rename->subname, true, false);
      }
      break;
    }
    case T_AlterDatabaseStmt: {
      auto alter = reinterpret_cast<const AlterDatabaseStmt*>(statement);
      ListCell* cell = nullptr;
      foreach (cell, alter->options) {
        if (runs_alone(context) && strcmp(lfirst_node(DefElem, cell)->defname, "tablespace") == 0) {
          hold_if_allowed(alter->dbname, false, false);
        }
      }
      break;
    }
    case T_CreatedbStmt:
      if (runs_alone(context)) {
        before_create_database(reinterpret_cast<const CreatedbStmt*>(statement));
      }
      break;
    case T_TransactionStmt:
      if (reinterpret_cast<const TransactionStmt*>(statement)->kind == TRANS_STMT_COMMIT_PREPARED) {
        note_prepared_commit();
      }
      break;
    case T_DropStmt: {
      auto drop = reinterpret_cast<const DropStmt*>(statement);
      if (drop->removeType == OBJECT_EXTENSION) {
        before_drop_extension(drop);
      }
      break;
    }
    default:
      break;
  }
}

void after_utility(const Node* statement) {
  switch (nodeTag(statement)) {
    case T_TransactionStmt: {
      const TransactionStmtKind kind = reinterpret_cast<const TransactionStmt*>(statement)->kind;
      if (kind == TRANS_STMT_COMMIT_PREPARED || kind == TRANS_STMT_ROLLBACK_PREPARED) {
        everything_may_have_changed(MyDatabaseId);
      }
      break;
    }
    // Rights have no access hook.
    case T_GrantStmt:
      if (reinterpret_cast<const GrantStmt*>(statement)->objtype == OBJECT_DATABASE) {
        note_roles_changed();
      } else {
        note_handlers_changed();
      }
      break;
    case T_GrantRoleStmt:
      note_roles_changed();
      break;
    case T_AlterDatabaseStmt:
      // It may be no template any more, or allow connections.
      note_database_changed(
          get_database_oid(reinterpret_cast<const AlterDatabaseStmt*>(statement)->dbname, true));
      break;
    default:
      break;
  }
}

void utility(PlannedStmt* planned, const char* query, bool read_only, ProcessUtilityContext context,
             ParamListInfo params, QueryEnvironment* environment, DestReceiver* dest,
             QueryCompletion* completion) {
  // COMMIT PREPARED ends the transaction and may free the statement's tree with it: looked at
  // before.
  Node* const statement = planned->utilityStmt;
  TransactionStmt ended = {};
  const bool is_transaction = IsA(statement, TransactionStmt);
  if (is_transaction) {
    ended = *reinterpret_cast<TransactionStmt*>(statement);
  }
  if (shared != nullptr) {
    pg::boundary([statement, context] {
      pg::call([statement, context] { before_utility(statement, context); });
    });
  }
  if (earlier_utility != nullptr) {
    earlier_utility(planned, query, read_only, context, params, environment, dest, completion);
  } else {
    standard_ProcessUtility(planned, query, read_only, context, params, environment, dest,
                            completion);
  }
  if (shared != nullptr) {
    const Node* after = is_transaction ? reinterpret_cast<Node*>(&ended) : statement;
    if (is_transaction || IsTransactionState()) {
      pg::boundary([after] { pg::call([after] { after_utility(after); }); });
    }
  }
}

void object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void* arg) {
  if (earlier_object_access != nullptr) {
    earlier_object_access(access, class_id, object_id, sub_id, arg);
  }
  if (shared == nullptr ||
      (access != OAT_POST_CREATE && access != OAT_POST_ALTER && access != OAT_DROP)) {
    return;
  }
  switch (class_id) {
    case ExtensionRelationId:
      note_database_changed(MyDatabaseId);
      break;
    case ProcedureRelationId:
    case NamespaceRelationId:
      note_handlers_changed();
      break;
    case AuthIdRelationId:
      note_roles_changed();
      break;
    case DbRoleSettingRelationId:
      // The role is said in the hook's argument (pg_db_role_setting.c, AlterSetting).
      if (access == OAT_POST_ALTER && arg != nullptr) {
        note_settings_changed(object_id, static_cast<ObjectAccessPostAlter*>(arg)->auxiliary_id);
      }
      break;
    case DatabaseRelationId:
      if (access == OAT_POST_CREATE) {
        note_database_changed(object_id);  // perhaps a copy of one that has the extension
      } else if (access == OAT_DROP && object_id != MyDatabaseId) {
        // After the owner check and before that for other sessions (dbcommands.c, dropdb).
        pg::boundary([object_id] { pg::call([object_id] { hold_until_end(object_id); }); });
      }
      break;
    default:
      break;
  }
}

}  // namespace

void install_hooks() {
  earlier_object_access = object_access_hook;
  object_access_hook = object_access;
  earlier_utility = ProcessUtility_hook;
  ProcessUtility_hook = utility;
  RegisterXactCallback(let_go, nullptr);
  RegisterSubXactCallback(let_go_of_subtransaction, nullptr);
}

}  // namespace underway
