// Labels of any whole type, read from their bytes. `kind` is their size, negative where they have a sign.

DEVICE index label_at(const int8* labels, int kind, index i) {
  switch (kind) {
    case 1: return reinterpret_cast<const unsigned char*>(labels)[i];
    case -1: return labels[i];
    case 2: return reinterpret_cast<const unsigned short*>(labels)[i];
    case -2: return reinterpret_cast<const short*>(labels)[i];
    case 4: return reinterpret_cast<const unsigned*>(labels)[i];
    case -4: return reinterpret_cast<const int*>(labels)[i];
    default: return reinterpret_cast<const index*>(labels)[i];  // one above 2^63 is no class either way
  }
}

// Where the label of a row stands in an array (rows, columns), or the row's first place where the label is no class.
struct Label {
  bool is_class;
  index place;
};
DEVICE Label label_of(const int8* labels, int kind, index row, index columns) {
  index label = label_at(labels, kind, row);
  bool is_class = label >= 0 && label < columns;
  return {is_class, row * columns + (is_class ? label : 0)};
}
