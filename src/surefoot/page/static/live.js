// Listens to what the server tells, only while the page is seen: a browser gives a site six
// connections, and pages in other tabs would hold them all.

export const follow = (address, handlers) => {
  let source = null;
  let over = false;
  const open = () => {
    if (source || over || document.hidden) return;
    source = new EventSource(address);
    for (const [name, handler] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => handler(event.data));
    }
  };
  const close = () => { source?.close(); source = null; };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  open();
  return () => { over = true; close(); };
};
