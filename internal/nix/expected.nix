# What a configuration says of how its machine is seen on the network, and of what it keeps when it starts anew. An option
# that is missing, throws or is of another type is not known: null. It never ends the evaluation.
config:
let
  # A derivation counts as its path: all that it holds is without end.
  flat = value: if builtins.isAttrs value && value ? outPath then value.outPath else value;
  known = value:
    let
      short = if builtins.isList value then map flat value else flat value;
      it = builtins.tryEval (builtins.deepSeq short short);
    in
    if it.success then it.value else null;
  typed = is: value: let it = known value; in if is it then it else null;
  bool = typed builtins.isBool;
  int = typed builtins.isInt;
  string = typed builtins.isString;
  list = value: let it = typed builtins.isList value; in if it == null then [ ] else it;
  names = value: let it = builtins.tryEval (if builtins.isAttrs value then builtins.attrNames value else [ ]); in if it.success then it.value else [ ];
  ints = value: if typed builtins.isList value == null then null else builtins.filter builtins.isInt value;
  strings = value: builtins.filter builtins.isString (list value);
  sets = value: builtins.filter builtins.isAttrs (list value);
  # A path may be one of nix's own, which must not be copied into the store.
  path = value: if builtins.isPath (known value) then toString value else text value;
  text = value: let it = string value; in if it == null then "" else builtins.unsafeDiscardStringContext it;

  ssh = config.services.openssh or { };
  firewall = config.networking.firewall or { };
  stage1 = config.boot.initrd or { };
  opened = it: {
    ports = ints (it.allowedTCPPorts or null);
    ranges = builtins.filter (range: range.from != null && range.to != null)
      (map (range: { from = int (range.from or null); to = int (range.to or null); }) (sets (it.allowedTCPPortRanges or null)));
  };

  # Of impermanence (environment.persistence) and preservation (preservation.preserveAt). Both name folders and files by
  # strings or by sets, and those of users by what follows their home.
  keptAt = name: it: {
    root = let root = string (it.persistentStoragePath or null); in if root == null then name else root;
    files = entries "file" "" it ++ ofUsers "file" it;
    folders = entries "directory" "" it ++ ofUsers "directory" it;
  };
  entries = kind: home: it:
    builtins.filter (path: path != null) (map
      (entry: let it = string (if builtins.isString entry then entry else entry.${kind} or null); in if it == null then null else home + it)
      (list (it.${if kind == "file" then "files" else "directories"} or null)));
  ofUsers = kind: it: builtins.concatMap
    (user: entries kind "${homeOf user it.users.${user}}/" it.users.${user})
    (names (it.users or null));
  homeOf = user: it:
    let
      homes = builtins.filter (home: home != null)
        [ (string (it.home or null)) (string (config.users.users.${user}.home or null)) (if user == "root" then "/root" else "/home/${user}") ];
    in
    builtins.head homes;
  # Files of the system that stage 1 gets when the bootloader is installed, but for those that an option makes: sops-nix,
  # agenix, environment.etc or a script of the activation, which runs before.
  secretFiles = map (name: let it = known stage1.secrets.${name}; in if it == null then name else path it) (names (stage1.secrets or null));
  pathsOf = set: map (name: text (set.${name}.path or null)) (names set);
  scripts = map (name: let it = known (config.system.activationScripts.${name} or null); in text (if builtins.isAttrs it then it.text or null else it))
    (names (config.system.activationScripts or null));
  made = file:
    builtins.elem file (pathsOf (config.sops.secrets or null) ++ pathsOf (config.age.secrets or null) ++ map (name: "/etc/${name}") (names (config.environment.etc or null)))
    || builtins.any (script: builtins.replaceStrings [ file ] [ "" ] script != script) scripts;
  kept = set: map (name: keptAt name set.${name}) (builtins.filter (name: bool (set.${name}.enable or null) != false) (names set));
in
{
  hostName = string (config.networking.hostName or null);
  sshd = {
    enable = bool (ssh.enable or null);
    ports = ints (ssh.ports or null);
    openFirewall = bool (ssh.openFirewall or null);
    listen = map (it: { address = string (it.addr or null); port = int (it.port or null); }) (sets (ssh.listenAddresses or null));
    keys = builtins.filter (key: key.type != "" && key.path != "")
      (map (key: { type = text (key.type or null); path = path (key.path or null); }) (sets (ssh.hostKeys or null)));
  };
  firewall = opened firewall // {
    enable = bool (firewall.enable or null);
    trusted = strings (firewall.trustedInterfaces or null);
    interfaces = map (name: opened firewall.interfaces.${name} // { inherit name; }) (names (firewall.interfaces or null));
  };
  stage1 = {
    network = bool (stage1.network.enable or null) == true || bool (stage1.systemd.network.enable or null) == true;
    noNetwork = bool (stage1.network.enable or null) == false && bool (stage1.systemd.network.enable or null) != true;
    ssh = bool (stage1.network.ssh.enable or null) == true;
    port = int (stage1.network.ssh.port or null);
    keys = map path (list (stage1.network.ssh.hostKeys or null));
    secrets = builtins.filter (file: file != "" && !(made file)) secretFiles;
    scripts = map text [
      (stage1.preLVMCommands or null)
      (stage1.postDeviceCommands or null)
      (stage1.postResumeCommands or null)
      (stage1.postMountCommands or null)
    ] ++ map (name: text (stage1.systemd.services.${name}.script or null)) (names (stage1.systemd.services or null));
  };
  kept = kept (config.environment.persistence or null) ++ kept (config.preservation.preserveAt or null);
  fileSystems = map
    (point: let it = config.fileSystems.${point}; in {
      mountPoint = let own = string (it.mountPoint or null); in if own == null then point else own;
      device = text (it.device or null);
      fsType = text (it.fsType or null);
      options = strings (it.options or null);
    })
    (names (config.fileSystems or null));
}
