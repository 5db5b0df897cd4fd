#include "insertion.hpp"

namespace underway::pg {

namespace {

value default_of(Relation table, int attribute, EState* executor) {
  Node* expression = build_column_default(table, attribute);
  value v;
  if (expression != nullptr) {
    ExprState* state = ExecPrepareExpr(reinterpret_cast<Expr*>(expression), executor);
    v.datum = ExecEvalExpr(state, GetPerTupleExprContext(executor), &v.null);
  }
  return v;
}

}  // namespace

void insertion::watch() {
  if (memory_ == nullptr) {
    CacheRegisterRelcacheCallback(
        [](Datum arg, Oid relation) {
          auto self = reinterpret_cast<insertion*>(DatumGetPointer(arg));
          if (relation == self->oid_ || !OidIsValid(relation)) {
            self->known_ = false;
          }
        },
        PointerGetDatum(this));
    memory_ = AllocSetContextCreate(TopMemoryContext, "underway insertion", ALLOCSET_SMALL_SIZES);
  }
}

// The lock on the table keeps it as it is read.
void insertion::read(Relation table) {
  MemoryContextReset(memory_);
  const TupleDesc shape = RelationGetDescr(table);
  row_ = static_cast<value*>(
      MemoryContextAlloc(memory_, sizeof(value) * static_cast<Size>(shape->natts)));
  EState* executor = CreateExecutorState();
  for (int n = 0; n < shape->natts; n++) {
    const Form_pg_attribute attribute = TupleDescAttr(shape, n);
    row_[n] = attribute->attisdropped ? value{} : default_of(table, n + 1, executor);
    if (!row_[n].null) {
      MemoryContext before = MemoryContextSwitchTo(memory_);
      row_[n].datum = datumCopy(row_[n].datum, attribute->attbyval, attribute->attlen);
      MemoryContextSwitchTo(before);
    }
  }
  FreeExecutorState(executor);
  for (int n = 0; n < count_; n++) {
    places_[n] = get_attnum(RelationGetRelid(table), columns_[n]) - 1;
    if (places_[n] < 0) {
      elog(ERROR, "underway: column %s of table %s is missing", columns_[n], table_);
    }
  }
  known_ = true;
}

void insertion::run(const value* values) {
  watch();
  if (!known_) {
    oid_ = get_relname_relid(table_, get_namespace_oid("underway_internal", false));
  }
  Relation table = table_open(oid_, RowExclusiveLock);
  if (!known_) {
    read(table);
  }
  EState* executor = CreateExecutorState();
  MemoryContext before = MemoryContextSwitchTo(executor->es_query_cxt);
  ResultRelInfo* into = makeNode(ResultRelInfo);
  InitResultRelInfo(into, table, 0, nullptr, 0);  // not in a range table: of no statement
  ExecOpenIndices(into, false);
  TupleTableSlot* slot = table_slot_create(table, &executor->es_tupleTable);
  for (int n = 0; n < RelationGetDescr(table)->natts; n++) {
    slot->tts_values[n] = row_[n].datum;
    slot->tts_isnull[n] = row_[n].null;
  }
  for (int n = 0; n < count_; n++) {
    slot->tts_values[places_[n]] = values[n].datum;
    slot->tts_isnull[places_[n]] = values[n].null;
  }
  ExecStoreVirtualTuple(slot);
  AfterTriggerBeginQuery();
  ExecSimpleRelationInsert(into, executor, slot);
  AfterTriggerEndQuery(executor);
  ExecCloseIndices(into);
  ExecResetTupleTable(executor->es_tupleTable, false);
  MemoryContextSwitchTo(before);
  FreeExecutorState(executor);
  table_close(table, NoLock);
  CommandCounterIncrement();
}

}  // namespace underway::pg
