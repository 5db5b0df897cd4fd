#include "session.hpp"

#include "entry.hpp"
#include "pg/transaction.hpp"

namespace underway {

namespace {

void reset() {
  // The parts of DISCARD ALL (discard.c) but for cached plans, which are ours. Each is cheap when there is nothing to reset.
  PortalHashTableDeleteAll();
  if (GetSessionUserId() != GetAuthenticatedUserId() || GetUserId() != GetSessionUserId()) {
    SetPGVariable("session_authorization", NIL, false);
    SetPGVariable("role", NIL, false);
  }
  ResetAllOptions();
  DropAllPreparedStatements();
  Async_UnlistenAll();
  LockReleaseAll(USER_LOCKMETHOD, true);
  ResetTempTableNamespace();
  ResetSequenceCaches();
}

// f(name, value as text)
template <class F>
void each_setting(Jsonb* settings, F&& f) {
  if (!JB_ROOT_IS_OBJECT(settings)) {
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("settings must be a JSON object"),
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
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("settings: the value of \"%s\" must be text, a number or a boolean", name),
                        errhint("Write it as in postgresql.conf: \"64MB\", 10, true.")));
      }
      f(name, v.type == jbvString    ? pnstrdup(v.val.string.val, v.val.string.len)
              : v.type == jbvNumeric ? DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v.val.numeric)))
              : v.val.boolean        ? "on"
                                     : "off");
    }
  }
}

void set_for(Oid role, const char* name, const char* value, bool really) {
  (void)set_config_option(name, value, superuser_arg(role) ? PGC_SUSET : PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SET, really, ERROR,
                          false);
}

}  // namespace

void renew_session(Jsonb* settings) {
  pg::transaction tx(pg::transaction::kind::ours);
  pg::call([settings] {
    reset();
    if (settings != nullptr) {
      each_setting(settings, [](const char* name, const char* value) { set_for(GetUserId(), name, value, true); });
    }
  });
  tx.commit();
}

UNDERWAY_ENTRY(underway_check_settings) {
  pg::call([fcinfo] {
    const Oid role = PG_GETARG_OID(1);
    Oid user = InvalidOid;
    int security = 0;
    GetUserIdAndSecContext(&user, &security);
    SetUserIdAndSecContext(role, security);  // an error leaves through the abort, which restores it (xact.c)
    each_setting(PG_GETARG_JSONB_P(0), [role](const char* name, const char* value) {
      if (pg_strcasecmp(name, "role") == 0 || pg_strcasecmp(name, "session_authorization") == 0) {
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("settings: \"%s\" cannot be set for a queue", name),
                        errhint("run_as says which role the handler runs as.")));
      }
      set_for(role, name, value, false);
    });
    SetUserIdAndSecContext(user, security);
  });
  PG_RETURN_BOOL(true);
}

}  // namespace underway
