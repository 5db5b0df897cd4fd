#include "session.hpp"

#include "entry.hpp"
#include "pg/transaction.hpp"

namespace underway {

namespace {

bool used = false;  // by a task, since it was reset

void reset() {
  // The parts of DISCARD ALL (discard.c) but for cached plans, which are ours. Each is cheap when
  // there is nothing to reset.
  PortalHashTableDeleteAll();
  if (GetSessionUserId() != GetAuthenticatedUserId() || GetUserId() != GetSessionUserId()) {
    SetPGVariable("session_authorization", NIL, false);
    SetPGVariable("role", NIL, false);
  }
  ResetAllOptions();
  DropAllPreparedStatements();
  Async_UnlistenAll();
  LockReleaseAll(USER_LOCKMETHOD, true);
  Oid temporary = InvalidOid;
  Oid toast = InvalidOid;
  GetTempNamespaceState(&temporary, &toast);
  if (OidIsValid(temporary)) {
    // Deleting from catalogs takes one, which a client's DISCARD has from its portal (pquery.c).
    PushActiveSnapshot(GetTransactionSnapshot());
    ResetTempTableNamespace();
    PopActiveSnapshot();
  }
  ResetSequenceCaches();
}

// f(name, value as text)
template <class F> void each_setting(Jsonb* settings, F&& f) {
  if (!JB_ROOT_IS_OBJECT(settings)) {
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("settings must be a JSON object"),
             errhint("For example settings => '{\"work_mem\": \"64MB\"}'.")));
  }
  JsonbIterator* it = JsonbIteratorInit(&settings->root);
  JsonbValue v;
  const char* name = nullptr;
  JsonbIteratorToken token;
  while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE) {
    if (token == WJB_KEY) {
      name = pnstrdup(v.val.string.val, v.val.string.len);
    } else if (token == WJB_VALUE) {
      if (v.type != jbvString && v.type != jbvNumeric && v.type != jbvBool) {
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("settings: the value of \"%s\" must be text, a number or a boolean", name),
                 errhint("Write it as in postgresql.conf: \"64MB\", 10, true.")));
      }
      f(name, v.type == jbvString    ? pnstrdup(v.val.string.val, v.val.string.len)
              : v.type == jbvNumeric ? DatumGetCString(DirectFunctionCall1(
                                           numeric_out, NumericGetDatum(v.val.numeric)))
              : v.val.boolean        ? "on"
                                     : "off");
    }
  }
}

void set_for(Oid role, const char* name, const char* value, bool really,
             GucAction how = GUC_ACTION_SET) {
  (void)set_config_option(name, value, superuser_arg(role) ? PGC_SUSET : PGC_USERSET, PGC_S_SESSION,
                          how, really, ERROR, false);
}

}  // namespace

void renew_session(Jsonb* settings) {
  pg::transaction tx(pg::transaction::kind::ours);
  pg::call([settings] {
    if (used) {
      reset();
    }
    used = true;
    if (settings != nullptr) {
      each_setting(settings, [](const char* name, const char* value) {
        set_for(GetUserId(), name, value, true);
      });
    }
  });
  tx.commit();
}

void apply_settings(Jsonb* settings, Oid role) {
  if (settings != nullptr) {
    each_setting(settings, [role](const char* name, const char* value) {
      set_for(role, name, value, true, GUC_ACTION_SAVE);
    });
  }
}

void clean_session() {
  if (!used) {
    return;
  }
  pg::transaction tx(pg::transaction::kind::ours);
  pg::call(reset);
  tx.commit();
  used = false;
}

namespace {

void check_setting(Oid role, const char* name, const char* value) {
  if (pg_strcasecmp(name, "role") == 0 || pg_strcasecmp(name, "session_authorization") == 0) {
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("settings: \"%s\" cannot be set for a queue", name),
                    errhint("run_as says which role the handler runs as.")));
  }
  // These live in one transaction, and a session's settings are made in another.
  for (const char* of_transaction :
       {"transaction_isolation", "transaction_read_only", "transaction_deferrable", "seed"}) {
    if (pg_strcasecmp(name, of_transaction) == 0) {
      ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                      errmsg("settings: \"%s\" cannot be set for a queue", name),
                      errhint("For a transaction there are default_transaction_isolation, "
                              "default_transaction_read_only and "
                              "default_transaction_deferrable.")));
    }
  }
  // Each of these ends the process where it should fail an attempt, which would count as a crash.
  if (pg_strcasecmp(name, "exit_on_error") == 0) {
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("settings: \"%s\" cannot be set for a queue", name),
                    errhint("It would end the worker instead of the attempt that failed.")));
  }
  if (pg_strcasecmp(name, "transaction_timeout") == 0) {
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("settings: \"%s\" cannot be set for a queue", name),
                    errhint("The queue's timeout limits the time of an attempt.")));
  }
  set_for(role, name, value, false);
}

void check_settings(Jsonb* settings, Oid role) {
  Oid user = InvalidOid;
  int security = 0;
  GetUserIdAndSecContext(&user, &security);
  SetUserIdAndSecContext(
      role, security);  // an error leaves through the abort, which restores it (xact.c)
  each_setting(settings,
               [role](const char* name, const char* value) { check_setting(role, name, value); });
  SetUserIdAndSecContext(user, security);
}

}  // namespace

UNDERWAY_ENTRY(underway_check_settings) {
  try {
    pg::call([fcinfo] { check_settings(PG_GETARG_JSONB_P(0), PG_GETARG_OID(1)); });
  } catch (pg::error& e) {
    e.suggest(
        "settings may hold what the role that the queue runs as may SET in a session; see the view "
        "pg_settings.");
    throw;
  }
  PG_RETURN_BOOL(true);
}

}  // namespace underway
