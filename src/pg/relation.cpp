#include "relation.hpp"

namespace underway::pg {

uint64 version_of(Oid relation) {
  // By what the oid leaves when it is divided: that two share one does no harm.
  static uint64 changes[256];
  static uint64 changes_of_all = 0;
  static bool watching = false;
  if (!watching) {
    CacheRegisterRelcacheCallback(
        [](Datum, Oid changed) {
          (OidIsValid(changed) ? changes[changed % lengthof(changes)] : changes_of_all)++;
        },
        0);
    watching = true;
  }
  return changes[relation % lengthof(changes)] + changes_of_all;
}

bool knowledge::holds_of(Oid relation) {
  const uint64 version = version_of(relation);
  if (relation == relation_ && version == version_) {
    return true;
  }
  relation_ = InvalidOid;
  version_ = version;
  return false;
}

void knowledge::was_found(Oid relation) { relation_ = relation; }

Oid relation_named(const char* name) {
  const Oid relation = get_relname_relid(name, get_namespace_oid("underway_internal", false));
  if (!OidIsValid(relation)) {
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
                    errmsg("relation \"underway_internal.%s\" does not exist", name)));
  }
  return relation;
}

Oid relation::oid() {
  if (!OidIsValid(oid_) || version_of(oid_) != version_) {
    oid_ = InvalidOid;
    const Oid found = relation_named(name_);
    version_ = version_of(found);
    oid_ = found;
  }
  return oid_;
}

AttrNumber column_named(TupleDesc columns, const char* name) {
  for (int n = 0; n < columns->natts; n++) {
    const FormData_pg_attribute* a = TupleDescAttr(columns, n);
    if (!a->attisdropped && strcmp(NameStr(a->attname), name) == 0) {
      return a->attnum;
    }
  }
  return InvalidAttrNumber;
}

bool is_word(Datum text, const char* word) {
  const auto t = reinterpret_cast<const varlena*>(PG_DETOAST_DATUM_PACKED(text));
  return VARSIZE_ANY_EXHDR(t) == strlen(word) && memcmp(VARDATA_ANY(t), word, strlen(word)) == 0;
}

void columns::find(Relation table) {
  const Oid oid = RelationGetRelid(table);
  if (found_.holds_of(oid)) {
    return;
  }
  for (int n = 0; n < count_; n++) {
    places_[n] = column_named(RelationGetDescr(table), names_[n]);
    if (places_[n] == InvalidAttrNumber) {
      ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                      errmsg("column \"%s\" of table \"underway_internal.%s\" does not exist",
                             names_[n], RelationGetRelationName(table))));
    }
  }
  found_.was_found(oid);
}

}  // namespace underway::pg
