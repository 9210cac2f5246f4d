// Declarations only, C++: linked with the implementation compiled as C.
#include "../../qinfer.h"
#include "../../qinfer.h"

#include <cstring>

extern "C" int user_c(const char *path);

int main() {
  qi_format q4 = qi_format_from_name("Q4_K");
  const qi_format_info *info = qi_format_get(q4);
  qi_model_desc md{};
  qi_error err{};
  qi_model *m = nullptr;
  bool refused = qi_model_open(&m, &md, &err) == QI_ERR_ARGUMENT && m == nullptr && err.msg[0] != 0;
  bool absent = user_c("no/such/file.gguf") == QI_ERR_IO;
  return info && std::strcmp(info->name, "Q4_K") == 0 && refused && absent ? 0 : 1;
}
