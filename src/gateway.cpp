// The gateway: what nearly every public function is. Takes the caller's id, becomes the extension's
// owner, and calls the function of the same name in underway_internal, with the caller in front of
// the arguments. Runs in: any backend. Error discipline: a boundary; the internals' CONTEXT lines
// are taken off, they are of no use to a caller. Invariant: the identity is the caller's again on
// every way out.
#include "entry.hpp"
#include "pg/identity.hpp"
#include "pg/statement.hpp"

namespace underway {

namespace {

struct target {
  Oid public_function;  // hash key
  Oid internal_function;
  FmgrInfo call;
};

HTAB* targets = nullptr;
bool watching = false;

void forget_targets(Datum, int, uint32) {
  HASH_SEQ_STATUS scan;
  hash_seq_init(&scan, targets);
  while (auto* t = static_cast<target*>(hash_seq_search(&scan))) {
    t->internal_function = InvalidOid;
  }
}

Oid find_internal(Oid public_function) {
  HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(public_function));
  if (!HeapTupleIsValid(tuple)) {
    elog(ERROR, "cache lookup failed for function %u", public_function);
  }
  auto form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(tuple));
  Oid types[FUNC_MAX_ARGS];
  types[0] = OIDOID;
  for (int n = 0; n < form->pronargs; n++) {
    types[n + 1] = form->proargtypes.values[n];
  }
  oidvector* signature = buildoidvector(types, form->pronargs + 1);
  const Oid schema = get_namespace_oid("underway_internal", false);
  const Oid found =
      GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(NameStr(form->proname)),
                      PointerGetDatum(signature), ObjectIdGetDatum(schema));
  if (!OidIsValid(found)) {
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("the library underway has no counterpart for %s", NameStr(form->proname)),
             errhint("ALTER EXTENSION underway UPDATE;")));
  }
  ReleaseSysCache(tuple);
  return found;
}

target* target_of(Oid public_function) {
  if (targets == nullptr) {
    HASHCTL control = {};
    control.keysize = sizeof(Oid);
    control.entrysize = sizeof(target);
    control.hcxt = TopMemoryContext;
    targets = hash_create("underway gateway", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  }
  if (!watching) {
    CacheRegisterSyscacheCallback(PROCOID, forget_targets, 0);
    watching = true;
  }
  bool found = false;
  auto* t = static_cast<target*>(hash_search(targets, &public_function, HASH_ENTER, &found));
  if (!found) {
    t->internal_function = InvalidOid;
  }
  if (!OidIsValid(t->internal_function)) {
    const Oid internal = find_internal(public_function);
    fmgr_info_cxt(internal, &t->call, TopMemoryContext);
    t->internal_function = internal;
  }
  return t;
}

}  // namespace

UNDERWAY_ENTRY(underway_gateway) {
  const Oid caller = GetUserId();
  pg::call([] { require_preload(); });
  pg::as_owner owner(false);
  try {
    return pg::call([fcinfo, caller] {
      // A copy: PL/pgSQL keeps its state in it, and a recursive call must not meet that of the
      // outer one.
      FmgrInfo flinfo = target_of(fcinfo->flinfo->fn_oid)->call;
      LOCAL_FCINFO(inner, FUNC_MAX_ARGS);
      InitFunctionCallInfoData(*inner, &flinfo, static_cast<short>(fcinfo->nargs + 1),
                               fcinfo->fncollation, nullptr, fcinfo->resultinfo);
      inner->args[0].value = ObjectIdGetDatum(caller);
      inner->args[0].isnull = false;
      for (int n = 0; n < fcinfo->nargs; n++) {
        inner->args[n + 1] = fcinfo->args[n];
      }
      const Datum result = FunctionCallInvoke(inner);
      fcinfo->isnull = inner->isnull;
      return result;
    });
  } catch (pg::error& e) {
    e.drop_context();
    throw;
  }
}

}  // namespace underway
