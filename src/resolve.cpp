// The handler that a queue is defined with, found when it is set: by the caller's search_path and
// rights. Runs in: any backend, called by internal functions as the extension's owner. Error
// discipline: boundaries. Invariant: only catalogs are read while the caller's identity is taken
// on; no code of a user runs.
#include "entry.hpp"
#include "handler.hpp"
#include "pg/compat.hpp"
#include "pg/identity.hpp"

namespace underway {

namespace {

// Null when there is no such function. Raises for a name that cannot be read, or a schema that may
// not be used.
Oid to_regprocedure_or_none(const char* signature) {
  LOCAL_FCINFO(fcinfo, 1);
  InitFunctionCallInfoData(*fcinfo, nullptr, 1, InvalidOid, nullptr, nullptr);
  fcinfo->args[0] = {CStringGetTextDatum(signature), false};
  const Datum found = to_regprocedure(fcinfo);
  return fcinfo->isnull ? InvalidOid : DatumGetObjectId(found);
}

// With argument types. A quoted name may hold a parenthesis.
bool is_exact(const char* handler) noexcept {
  return *handler != '\0' && handler[strlen(handler) - 1] == ')';
}

Oid resolve(const char* handler) {
  if (is_exact(handler)) {
    return to_regprocedure_or_none(handler);
  }
  const Oid with_input = to_regprocedure_or_none(psprintf("%s(pg_catalog.jsonb)", handler));
  return OidIsValid(with_input) ? with_input : to_regprocedure_or_none(psprintf("%s()", handler));
}

// The body of the caller's own look-up, between taking on the identity and giving it back.
template <class F> auto as_caller(F&& f) -> decltype(f()) {
  Oid owner = InvalidOid;
  int security = 0;
  GetUserIdAndSecContext(&owner, &security);
  const int nest = NewGUCNestLevel();
  (void)set_config_option("search_path", pg::as_owner::caller_search_path(), PGC_USERSET,
                          PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
  SetUserIdAndSecContext(pg::as_owner::caller(), security);
  auto result = f();  // an error leaves through the abort, which restores both (xact.c)
  SetUserIdAndSecContext(owner, security);
  AtEOXact_GUC(true, nest);
  return result;
}

Datum describe(Oid function, const char* handler) {
  HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
  if (!HeapTupleIsValid(tuple)) {
    elog(ERROR, "cache lookup failed for function %u", function);
  }
  auto form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(tuple));
  const char* why = unfit_handler(tuple);
  if (why == nullptr &&
      (form->pronargs > 1 || (form->pronargs == 1 && form->proargtypes.values[0] != JSONBOID))) {
    why = "its arguments are not (jsonb) and not ()";
  }
  if (why == nullptr && OidIsValid(form->provariadic)) {
    why = "it is variadic";
  }
  if (why != nullptr) {
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("handler \"%s\" cannot be a handler: %s", handler, why),
                    errhint("A handler is a function f(jsonb) or f() that returns one value or "
                            "void, or a procedure.")));
  }
  StringInfoData json;
  initStringInfo(&json);
  appendStringInfoString(&json, "{\"schema\":");
  escape_json(&json, get_namespace_name(form->pronamespace));
  appendStringInfoString(&json, ",\"name\":");
  escape_json(&json, NameStr(form->proname));
  appendStringInfoString(&json, ",\"owner\":");
  escape_json(&json, GetUserNameFromId(form->proowner, false));
  appendStringInfo(&json, ",\"args\":[%s],\"kind\":\"%c\",\"oid\":%u}",
                   form->pronargs == 1 ? "\"jsonb\"" : "", form->prokind, function);
  ReleaseSysCache(tuple);
  return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

}  // namespace

UNDERWAY_ENTRY(underway_resolve_handler) {
  const char* handler = pg::call(
      [fcinfo] { return TextDatumGetCString(DirectFunctionCall1(btrim1, PG_GETARG_DATUM(0))); });
  Oid function = InvalidOid;
  try {
    function = pg::call([handler] { return as_caller([handler] { return resolve(handler); }); });
  } catch (pg::error& e) {
    e.suggest("Write the handler as f, schema.f or schema.f(jsonb), quoted as in SQL.");
    throw;
  }
  return pg::call([handler, function] {
    if (!OidIsValid(function)) {
      const bool exact = is_exact(handler);
      ereport(
          ERROR,
          (errcode(ERRCODE_UNDEFINED_FUNCTION),
           errmsg("handler function %s%s does not exist", handler, exact ? "" : "(jsonb)"),
           exact ? 0 : errdetail("Neither is there %s().", handler),
           errhint(
               "Create the function first, or check the search_path, or write schema.function.")));
    }
    return describe(function, handler);
  });
}

UNDERWAY_ENTRY(underway_find_handler) {
  const Oid found = pg::call([fcinfo] {
    return find_handler(
        text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)),
        ArrayGetNItems(ARR_NDIM(PG_GETARG_ARRAYTYPE_P(2)), ARR_DIMS(PG_GETARG_ARRAYTYPE_P(2))) > 0);
  });
  if (!OidIsValid(found)) {
    PG_RETURN_NULL();
  }
  PG_RETURN_OID(found);
}

UNDERWAY_ENTRY(underway_caller_search_path) {
  return pg::call([] { return CStringGetTextDatum(pg::as_owner::caller_search_path()); });
}

}  // namespace underway
