#include "identity.hpp"

namespace underway::pg {

namespace {
as_owner* innermost = nullptr;
Oid cached_owner = InvalidOid;
bool watching = false;

void forget_owner(Datum, Oid) { cached_owner = InvalidOid; }

Oid catalog_lookup(Oid* owner) {
  // pg_extension has no syscache before 18: read it as get_extension_oid (extension.c) does.
  Relation rel = table_open(ExtensionRelationId, AccessShareLock);
  ScanKeyData key;
  ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
              CStringGetDatum("underway"));
  SysScanDesc scan = systable_beginscan(rel, ExtensionNameIndexId, true, nullptr, 1, &key);
  Oid oid = InvalidOid;
  HeapTuple tuple = systable_getnext(scan);
  if (HeapTupleIsValid(tuple)) {
    auto form = reinterpret_cast<Form_pg_extension>(GETSTRUCT(tuple));
    oid = form->oid;
    *owner = form->extowner;
  }
  systable_endscan(scan);
  table_close(rel, AccessShareLock);
  return oid;
}

void raise_gone() {
  ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                  errmsg("extension \"underway\" does not exist in this database"),
                  errhint("CREATE EXTENSION underway;")));
}
}  // namespace

void lock_first() {
  const Oid schema = get_namespace_oid("underway_internal", true);
  const Oid gate = OidIsValid(schema) ? get_relname_relid("queue", schema) : InvalidOid;
  if (OidIsValid(gate)) {
    LockRelationOid(gate, AccessShareLock);
  }
}

Oid extension_oid() {
  return call([] {
    Oid owner = InvalidOid;
    return catalog_lookup(&owner);
  });
}

Oid extension_owner() {
  if (OidIsValid(cached_owner)) {
    return cached_owner;
  }
  return call([] {
    if (!watching) {
      // REASSIGN OWNED changes the owner; its owner's row in pg_namespace changes with it, and that
      // has a syscache.
      CacheRegisterSyscacheCallback(
          NAMESPACEOID, [](Datum a, int, uint32) { forget_owner(a, InvalidOid); }, 0);
      watching = true;
    }
    Oid owner = InvalidOid;
    if (!OidIsValid(catalog_lookup(&owner))) {
      raise_gone();
    }
    cached_owner = owner;
    return owner;
  });
}

as_owner::as_owner(bool quiet) : outer_(innermost) {
  const Oid owner = extension_owner();
  GetUserIdAndSecContext(&user_, &security_);
  seqscan_ = enable_seqscan;
  bitmapscan_ = enable_bitmapscan;
  hashjoin_ = enable_hashjoin;
  mergejoin_ = enable_mergejoin;
  nestloop_ = enable_nestloop;
  indexscan_ = enable_indexscan;
  indexonlyscan_ = enable_indexonlyscan;
  conforming_strings_ = standard_conforming_strings;
  plan_cache_mode_ = plan_cache_mode;
  jit_ = jit_enabled;
  lock_timeout_ = LockTimeout;
  search_path_ = call([] {
    // First of all locks: see before_drop_extension (hooks.cpp), which takes it too before any
    // other, so that DROP EXTENSION and a statement of ours never wait for each other in a circle.
    lock_first();
    // It may have been dropped while we waited for that lock; from here on it cannot be.
    if (!OidIsValid(get_namespace_oid("underway_internal", true))) {
      raise_gone();
    }
    return MemoryContextStrdup(TopTransactionContext, namespace_search_path);
  });
  nest_ = NewGUCNestLevel();
  SetUserIdAndSecContext(owner, security_ | SECURITY_LOCAL_USERID_CHANGE);
  innermost = this;
  try {
    call([] {
      (void)set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
                              GUC_ACTION_SAVE, true, 0, false);
    });
  } catch (...) {
    innermost = outer_;
    SetUserIdAndSecContext(user_, security_);
    throw;
  }
  // Our statements are always nested loops over indexes: a plan made while a table is small must
  // not turn into scans of it.
  enable_seqscan = enable_bitmapscan = enable_hashjoin = enable_mergejoin = false;
  enable_nestloop = enable_indexscan = enable_indexonlyscan = true;
  // PL/pgSQL parses our functions with the settings of whoever calls them first.
  standard_conforming_strings = true;
  plan_cache_mode = PLAN_CACHE_MODE_FORCE_GENERIC_PLAN;
  // Where a scan cannot be helped, its cost is now such that the plan would be compiled, for
  // hundreds of milliseconds.
  jit_enabled = false;
  if (quiet) {
    LockTimeout = 0;
  }
}

as_owner::~as_owner() {
  enable_seqscan = seqscan_;
  enable_bitmapscan = bitmapscan_;
  enable_hashjoin = hashjoin_;
  enable_mergejoin = mergejoin_;
  enable_nestloop = nestloop_;
  enable_indexscan = indexscan_;
  enable_indexonlyscan = indexonlyscan_;
  standard_conforming_strings = conforming_strings_;
  plan_cache_mode = plan_cache_mode_;
  jit_enabled = jit_;
  LockTimeout = lock_timeout_;
  innermost = outer_;
  AtEOXact_GUC(true, nest_);
  SetUserIdAndSecContext(user_, security_);
}

Oid as_owner::caller() noexcept { return innermost != nullptr ? innermost->user_ : GetUserId(); }

const char* as_owner::caller_search_path() noexcept {
  return innermost != nullptr ? innermost->search_path_ : namespace_search_path;
}

}  // namespace underway::pg
