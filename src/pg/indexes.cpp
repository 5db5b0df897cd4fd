#include "indexes.hpp"

#include "relation.hpp"

#include <algorithm>

namespace underway::pg {

namespace {

void read(index_set* set, Relation table) {
  MemoryContext before = MemoryContextSwitchTo(set->memory);
  set->state = CreateExecutorState();
  set->count = 0;
  set->generated_count = 0;
  const TupleDesc shape = RelationGetDescr(table);
  for (int n = 0; n < shape->natts; n++) {
    if (TupleDescAttr(shape, n)->attgenerated != ATTRIBUTE_GENERATED_STORED) {
      continue;
    }
    if (set->generated_count == index_set::most_generated) {
      elog(ERROR, "underway: table %s has a generated column that does not belong to it",
           RelationGetRelationName(table));
    }
    auto made = reinterpret_cast<Expr*>(build_column_default(table, n + 1));
    set->generated[set->generated_count++] = {static_cast<AttrNumber>(n + 1),
                                              ExecPrepareExpr(made, set->state)};
  }
  List* oids = RelationGetIndexList(table);
  ListCell* cell = nullptr;
  foreach (cell, oids) {
    const Oid oid = lfirst_oid(cell);
    Relation index = index_open(oid, RowExclusiveLock);
    IndexInfo* info = BuildIndexInfo(index);
    if (set->count == index_set::most || info->ii_ExclusionOps != nullptr) {
      elog(ERROR, "underway: table %s has an index that does not belong to it",
           RelationGetRelationName(table));
    }
    if (info->ii_ReadyForInserts) {
      ExprState* predicate =
          info->ii_Predicate == NIL ? nullptr : ExecPrepareQual(info->ii_Predicate, set->state);
      set->all[set->count++] = {oid, info->ii_Unique, info, predicate};
    }
    index_close(index, NoLock);
  }
  MemoryContextSwitchTo(before);
}

}  // namespace

// Of more than a database's tables of ours are, the one that was not used for longest goes.
index_set* indexes_of(Relation relation) {
  static index_set sets[64];
  static uint64 uses = 0;
  index_set* end = sets + lengthof(sets);
  const Oid table = RelationGetRelid(relation);
  index_set* set =
      std::find_if(sets, end, [table](const index_set& s) { return s.table == table; });
  if (set == end) {
    set = std::min_element(sets, end, [](const auto& a, const auto& b) { return a.used < b.used; });
  }
  const uint64 version = version_of(table);
  set->used = ++uses;
  if (set->table == table && set->version == version) {
    return set;
  }
  set->table = InvalidOid;
  if (set->memory == nullptr) {
    set->memory =
        AllocSetContextCreate(TopMemoryContext, "underway indexes", ALLOCSET_DEFAULT_SIZES);
  }
  MemoryContextReset(set->memory);
  read(set, relation);
  set->table = table;
  set->version = version;
  return set;
}

}  // namespace underway::pg
