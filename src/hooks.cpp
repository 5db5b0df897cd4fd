#include "hooks.hpp"

#include "pg/compat.hpp"
#include "pg/error.hpp"
#include "pg/identity.hpp"
#include "slots.hpp"
#include "wake.hpp"

#include <signal.h>

namespace underway {

namespace {

object_access_hook_type earlier_object_access = nullptr;
ProcessUtility_hook_type earlier_utility = nullptr;

// The database that this backend's statement needs without our processes; one at a time is enough, since such statements cannot run
// in a transaction block.
Oid held_database = InvalidOid;

constexpr int patience_ms = 5000;

bool is_alive(int pid) { return pid != 0 && BackendPidGetProc(pid) != nullptr; }

// Ends our processes in the database and keeps new ones out, until the end of this transaction.
void hold(Oid database) {
  database_entry* db = find_database(database, false);
  if (db == nullptr || held_database == database) {
    return;
  }
  held_database = database;
  db->holds++;
  // The server's own check for others waits up to 5 s as well (procarray.c, CountOtherDBBackends); after that it names them.
  for (int waited = 0; waited < patience_ms; waited += 10) {
    bool alive = false;
    auto end = [&alive](int pid) {
      if (is_alive(pid)) {
        alive = true;
        (void)kill(pid, SIGTERM);
      }
    };
    end(db->coordinator_pid);
    for (int n = 0; n < shared->slots_size; n++) {
      worker_slot* slot = slot_at(n);
      if (slot->database == database) {
        end(slot->pid);
      }
    }
    if (!alive) {
      break;
    }
    (void)WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10, PG_WAIT_EXTENSION);
    CHECK_FOR_INTERRUPTS();
  }
}

void let_go(XactEvent event, void*) {
  if (!OidIsValid(held_database) || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)) {
    return;
  }
  database_entry* db = find_database(held_database, false);
  held_database = InvalidOid;
  if (db != nullptr) {
    db->holds--;
    db->retry_at = DT_NOBEGIN;
    db->failures = 0;
    db->wanted = true;  // of a database that is gone: the coordinator's start fails, and the launcher forgets it
    poke_launcher();
  }
}

bool may_create_databases() {
  HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
  const bool may = HeapTupleIsValid(tuple) && reinterpret_cast<Form_pg_authid>(GETSTRUCT(tuple))->rolcreatedb;
  if (HeapTupleIsValid(tuple)) {
    ReleaseSysCache(tuple);
  }
  return may || superuser();
}

void hold_if_owner(const char* name, bool needs_createdb) {
  const Oid database = get_database_oid(name, true);
  if (OidIsValid(database) && pg::owns_database(database, GetUserId()) && (!needs_createdb || may_create_databases())) {
    hold(database);
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
  hold_if_owner(source, true);
}

// Our own statements lock queue before task before the rest; a DROP locks in the order of dependencies. So that neither waits for the
// other in a circle, a DROP takes the two first. Cascades do not come here; they are rare and the deadlock is resolved for them.
void before_drop_extension(const DropStmt* statement) {
  ListCell* cell = nullptr;
  foreach (cell, statement->objects) {
    if (strcmp(strVal(lfirst(cell)), "underway") != 0) {
      continue;
    }
    const Oid extension = pg::extension_oid();
    const Oid schema = get_namespace_oid("underway_internal", true);
    if (!OidIsValid(extension) || !OidIsValid(schema) || !pg::owns_extension(extension, GetUserId())) {
      continue;
    }
    for (const char* table : {"queue", "task"}) {
      const Oid relation = get_relname_relid(table, schema);
      if (OidIsValid(relation)) {
        LockRelationOid(relation, AccessExclusiveLock);
      }
    }
  }
}

void before_utility(const Node* statement) {
  switch (nodeTag(statement)) {
    case T_RenameStmt: {
      auto rename = reinterpret_cast<const RenameStmt*>(statement);
      if (rename->renameType == OBJECT_DATABASE) {
        hold_if_owner(rename->subname, true);
      }
      break;
    }
    case T_AlterDatabaseStmt: {
      auto alter = reinterpret_cast<const AlterDatabaseStmt*>(statement);
      ListCell* cell = nullptr;
      foreach (cell, alter->options) {
        if (strcmp(lfirst_node(DefElem, cell)->defname, "tablespace") == 0) {
          hold_if_owner(alter->dbname, false);
        }
      }
      break;
    }
    case T_CreatedbStmt:
      before_create_database(reinterpret_cast<const CreatedbStmt*>(statement));
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
    case T_GrantStmt:
    case T_GrantRoleStmt:
      note_handlers_changed();  // rights have no access hook
      break;
    default:
      break;
  }
}

void utility(PlannedStmt* planned, const char* query, bool read_only, ProcessUtilityContext context, ParamListInfo params,
             QueryEnvironment* environment, DestReceiver* dest, QueryCompletion* completion) {
  // COMMIT PREPARED ends the transaction and may free the statement's tree with it: looked at before.
  Node* const statement = planned->utilityStmt;
  TransactionStmt ended = {};
  const bool is_transaction = IsA(statement, TransactionStmt);
  if (is_transaction) {
    ended = *reinterpret_cast<TransactionStmt*>(statement);
  }
  if (shared != nullptr) {
    pg::boundary([statement] { pg::call([statement] { before_utility(statement); }); });
  }
  if (earlier_utility != nullptr) {
    earlier_utility(planned, query, read_only, context, params, environment, dest, completion);
  } else {
    standard_ProcessUtility(planned, query, read_only, context, params, environment, dest, completion);
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
  if (shared == nullptr || (access != OAT_POST_CREATE && access != OAT_POST_ALTER && access != OAT_DROP)) {
    return;
  }
  switch (class_id) {
    case ExtensionRelationId:
      note_extension_changed(MyDatabaseId);
      break;
    case ProcedureRelationId:
    case NamespaceRelationId:
    case AuthIdRelationId:
      note_handlers_changed();
      break;
    case DbRoleSettingRelationId:
      note_settings_changed(object_id);
      break;
    case DatabaseRelationId:
      // After the owner check and before that for other sessions (dbcommands.c, dropdb).
      if (access == OAT_DROP) {
        pg::boundary([object_id] { pg::call([object_id] { hold(object_id); }); });
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
}

}  // namespace underway
