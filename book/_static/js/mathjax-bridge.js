/* thebe speaks to MathJax 2; the page has MathJax 3. These few calls are all that thebe makes. */
(() => {
  const typeset = (element) => window.MathJax.typesetPromise([element]).catch(() => {});
  const run = (task) => {
    if (typeof task === "function") task();
    else if (Array.isArray(task) && task[0] === "Typeset") typeset(task[2]);
    else if (Array.isArray(task) && typeof task[0] === "function") task[0]();
  };
  window.MathJax.Hub = {
    Config() {},
    Configured() {},
    Queue: (...tasks) => tasks.forEach(run),
    Register: { StartupHook: (_, hook) => hook() },
  };
  window.MathJax.InputJax = { TeX: { resetEquationNumbers() {} } };
})();
