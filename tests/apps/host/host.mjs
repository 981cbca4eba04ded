// The host's side, with the protocol's own bridge: one frame per page, each behind a sandbox proxy of another origin.
import { AppBridge, PostMessageTransport } from "@modelcontextprotocol/ext-apps/app-bridge";

const host = (window.host = { sizes: [], asked: [], logged: [], errors: [], initialized: 0, bridge: null, answers: [] });

// Shows a page; `context` is the host's, `capabilities` what it offers. Resolves when the page has said it is there.
host.show = async (html, context = {}, capabilities = {}) => {
  document.body.querySelector("iframe")?.remove();
  document.body.className = context.theme ?? "";
  Object.assign(host, { sizes: [], asked: [], logged: [], errors: [], initialized: 0, answers: [] });
  const frame = document.createElement("iframe");
  frame.src = document.body.dataset.sandbox;
  const bridge = new AppBridge(null, { name: "a-host", version: "1.0.0" }, capabilities, { hostContext: context });
  host.bridge = bridge;
  host.frame = frame;
  bridge.addEventListener("sizechange", (size) => {
    host.sizes.push(size);
    if (size.height !== undefined) frame.style.height = `${size.height}px`;
  });
  bridge.onerror = (error) => host.errors.push(String(error));
  bridge.oncalltool = async (params) => {
    host.asked.push(params);
    if (!host.answers.length) throw new Error("the host refuses");
    return host.answers.shift();
  };
  const there = new Promise((resolve) => bridge.addEventListener("initialized", () => resolve(++host.initialized)));
  const sandbox = new Promise((resolve) => bridge.addEventListener("sandboxready", resolve));
  document.body.append(frame);
  await bridge.connect(new PostMessageTransport(frame.contentWindow, frame.contentWindow));
  await sandbox;
  await bridge.sendSandboxResourceReady({ html });
  await there;
  return bridge.getAppVersion();
};

document.body.dataset.sandbox = new URL(location.href).searchParams.get("sandbox");
document.body.dataset.drawn = "1";
