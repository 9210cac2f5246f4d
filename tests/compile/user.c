// Declarations only, C99 and later: the sample of the manual must compile as it stands there.
#include "../../qinfer.h"
#include "../../qinfer.h"

#include <stdio.h>

int user_c(const char *path);
int user_c(const char *path) {
  qi_model_desc md = {.path = path};
  qi_session_desc sd = {.n_ctx = 4096};
  qi_error err = {0};
  qi_model *m = NULL;
  qi_session *s = NULL;
  qi_piece p;
  if (qi_model_open(&m, &md, &err) || qi_session_open(&s, m, &sd, &err) || qi_prompt(s, "Once upon a time", &err)) goto fail;
  while (qi_next(s, &p, &err) == QI_OK) fwrite(p.text, 1, p.len, stdout);
fail:
  qi_session_close(s);
  qi_model_close(m);
  return err.code;
}
